//! A bar on standard error for long work; nothing where nobody is looking.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Progress towards a known count of records, or a spinner where none is known. Draws only when
/// standard error is a terminal, at most 10 times a second, and is gone when dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Starts at none of `total` records.
    pub(crate) fn new(total: Option<u64>, what: &'static str) -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(10);
        let (bar, template) = match total {
            Some(total) => (
                ProgressBar::with_draw_target(Some(total), target),
                "{msg} [{bar:30}] {human_pos}/{human_len} records {per_sec}",
            ),
            None => (
                ProgressBar::with_draw_target(None, target),
                "{msg} {spinner} {human_pos} records {per_sec}",
            ),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what);
        Self { bar }
    }

    /// Moves to `done` records.
    pub(crate) fn set(&self, done: u64) {
        self.bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
