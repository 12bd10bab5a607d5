//! The bound on what a producer holds: bytes of records queued or in flight, over all its
//! partitions.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

/// Counts bytes. Who finds too few waits its turn, first come first served.
#[derive(Debug)]
pub(super) struct Buffer {
    /// One permit a byte.
    free: Semaphore,
    waiting: AtomicUsize,
}

/// The buffer was closed while waiting.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BufferClosed;

/// Bytes taken and not yet handed to a batch; returned when dropped.
#[derive(Debug)]
pub(super) struct Reservation<'a>(tokio::sync::SemaphorePermit<'a>);

impl Reservation<'_> {
    /// Hands the bytes to a batch, which returns them with [`Buffer::release`].
    pub(super) fn keep(self) {
        self.0.forget();
    }
}

impl Buffer {
    pub(super) fn new(bytes: usize) -> Self {
        let bytes = bytes.min(Semaphore::MAX_PERMITS);
        Self { free: Semaphore::new(bytes), waiting: AtomicUsize::new(0) }
    }

    /// Takes `bytes`; `None` when so many are not free, or others wait already.
    pub(super) fn try_reserve(&self, bytes: u32) -> Option<Reservation<'_>> {
        self.free.try_acquire_many(bytes).ok().map(Reservation)
    }

    /// Takes `bytes`, waiting for them. `on_wait` is called before the wait when nobody waited.
    pub(super) async fn reserve(
        &self,
        bytes: u32,
        on_wait: impl FnOnce(),
    ) -> Result<Reservation<'_>, BufferClosed> {
        let waiter = Waiter::new(&self.waiting);
        if waiter.first {
            on_wait();
        }
        self.free.acquire_many(bytes).await.map(Reservation).or(Err(BufferClosed))
    }

    /// Returns what batches kept.
    pub(super) fn release(&self, bytes: usize) {
        self.free.add_permits(bytes);
    }

    /// Whether a sender waits: batches must not linger then.
    pub(super) fn is_short(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Whether [`close`](Self::close) was called.
    pub(super) fn is_closed(&self) -> bool {
        self.free.is_closed()
    }

    /// Refuses further records and those that wait.
    pub(super) fn close(&self) {
        self.free.close();
    }

    #[cfg(test)]
    pub(super) fn free_bytes(&self) -> usize {
        self.free.available_permits()
    }
}

/// Counts one waiter for as long as it waits, also when its future is dropped.
struct Waiter<'a> {
    count: &'a AtomicUsize,
    first: bool,
}

impl<'a> Waiter<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        let first = count.fetch_add(1, Ordering::Relaxed) == 0;
        Self { count, first }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_buffer_makes_the_next_wait_and_a_release_lets_it_go() {
        let buffer = std::sync::Arc::new(Buffer::new(100));
        buffer.try_reserve(80).unwrap().keep();
        assert!(buffer.try_reserve(21).is_none());

        let waiting = {
            let buffer = std::sync::Arc::clone(&buffer);
            tokio::spawn(async move { buffer.reserve(50, || {}).await.map(Reservation::keep) })
        };
        tokio::task::yield_now().await;
        assert!(buffer.is_short() && !waiting.is_finished());
        // First come, first served: what is left is kept for who waits.
        assert!(buffer.try_reserve(1).is_none());

        buffer.release(80);
        assert_eq!(waiting.await.unwrap(), Ok(()));
        assert!(!buffer.is_short());
        assert_eq!(buffer.free_bytes(), 50);
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_takes_nothing() {
        let buffer = Buffer::new(10);
        buffer.try_reserve(10).unwrap().keep();
        {
            let wait = buffer.reserve(5, || {});
            tokio::pin!(wait);
            let polled = futures_poll_once(wait.as_mut()).await;
            assert!(polled.is_pending());
        }
        assert!(!buffer.is_short());
        buffer.release(10);
        assert_eq!(buffer.free_bytes(), 10);
    }

    async fn futures_poll_once<F: Future>(
        mut future: std::pin::Pin<&mut F>,
    ) -> std::task::Poll<F::Output> {
        std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context))).await
    }

    #[tokio::test]
    async fn closing_ends_the_wait() {
        let buffer = std::sync::Arc::new(Buffer::new(1));
        buffer.try_reserve(1).unwrap().keep();
        let waiting = {
            let buffer = std::sync::Arc::clone(&buffer);
            tokio::spawn(async move { buffer.reserve(1, || {}).await.is_err() })
        };
        tokio::task::yield_now().await;
        buffer.close();
        assert!(waiting.await.unwrap());
    }
}
