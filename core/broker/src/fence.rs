//! The one way to stop the broker at once: a failed sync, after which nobody knows what is on the
//! disk. Raised once; whoever runs the broker waits for it.

use std::sync::Arc;

use tokio::sync::watch;

/// Shared by everything that can find the disk fenced.
#[derive(Debug, Clone)]
pub(crate) struct Fence {
    reason: Arc<watch::Sender<Option<Arc<str>>>>,
}

impl Fence {
    pub(crate) fn new() -> Self {
        Self { reason: Arc::new(watch::channel(None).0) }
    }

    /// Stops the broker. The first reason stands.
    pub(crate) fn raise(&self, reason: &str) {
        self.reason.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(Arc::from(reason));
            }
            first
        });
    }

    /// Waits until the fence is raised and says why.
    pub(crate) async fn raised(&self) -> Arc<str> {
        let mut reason = self.reason.subscribe();
        loop {
            if let Some(reason) = reason.borrow_and_update().clone() {
                return reason;
            }
            if reason.changed().await.is_err() {
                // The sender lives in `self`; unreachable while this future does.
                std::future::pending::<()>().await;
            }
        }
    }
}
