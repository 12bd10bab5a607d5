//! How the system's scheduler treats a thread.

/// What the scheduler is told of work that can wait: it runs where nobody else wants to, and on a
/// busy machine gets about a seventieth of a processor's time.
#[cfg(target_os = "linux")]
const CAN_WAIT: i32 = 19;

/// Has the calling thread give way to every other, for good: an ordinary user may not raise it
/// again. Only Linux knows priorities of single threads; elsewhere nothing changes.
///
/// # Errors
/// The system's.
pub fn yield_to_others() -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::setpriority_process(None, CAN_WAIT)?;
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_gives_way_is_the_only_one_to() {
        let own = || rustix::process::getpriority_process(None).unwrap();
        let before = own();
        let lowered = std::thread::spawn(move || {
            yield_to_others().unwrap();
            own()
        });
        assert_eq!(lowered.join().unwrap(), CAN_WAIT);
        assert_eq!(own(), before);
    }
}
