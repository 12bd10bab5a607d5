//! The task that finds partitions which were added to a topic, and has them read too.

use std::time::Duration;

use millstream_wire::api::StartAt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::fetcher::{Delivered, Fetching};

/// Looks for new partitions beyond the first `known` for as long as any is read. The reader's
/// channel is held by those who read alone, so that it closes with the last of them.
pub(super) async fn run(
    fetching: Fetching,
    mut known: u32,
    interval: Duration,
    chunks: mpsc::WeakSender<Delivered>,
) {
    let mut fetchers = JoinSet::new();
    loop {
        tokio::time::sleep(interval).await;
        let now = fetching.client.clock.monotonic();
        let found = fetching.client.cluster.topic(&fetching.topic, now).await;
        let Some(chunks) = chunks.upgrade() else { return };
        // What is wrong with the topic, or that it is another one now, the fetchers tell.
        let Ok(found) = found else { continue };
        if found.topic != fetching.topic_id {
            continue;
        }
        for partition in known..found.partitions() {
            tracing::debug!(topic = %fetching.topic, partition, "a partition was added");
            let (fetcher, status) = fetching.fetcher(partition, StartAt::Earliest, chunks.clone());
            if chunks.send(Delivered::Added(partition, status)).await.is_err() {
                return;
            }
            // Nobody waits for its first subscription.
            let (opened, _) = oneshot::channel();
            fetchers.spawn(fetcher.run(opened));
        }
        known = known.max(found.partitions());
    }
}
