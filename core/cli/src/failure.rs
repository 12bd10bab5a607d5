//! How a command ends: exit codes, and what to do next after a failure.

use std::io;
use std::process::ExitCode;

use anyhow::Error;
use millstream_client::{
    AddressFailures, AdminError, BuildError, ConnectError, ConsumerError, DeliveryError, ErrorCode,
    SendError,
};

use crate::output::note;
use crate::signals::Ended;

/// A failure with its own advice.
#[derive(Debug)]
pub(crate) struct Advised {
    /// What went wrong.
    pub(crate) message: String,
    /// What to do next.
    pub(crate) advice: String,
    /// Whether it is the command line that is wrong.
    is_misuse: bool,
}

impl std::fmt::Display for Advised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Advised {}

/// A failure with its own advice on what to do next, as an error.
pub fn advised(message: impl Into<String>, advice: impl Into<String>) -> Error {
    Advised { message: message.into(), advice: advice.into(), is_misuse: false }.into()
}

/// A command line that parses and still asks for nothing that can be done, as an error.
pub(crate) fn misused(message: impl Into<String>, advice: impl Into<String>) -> Error {
    Advised { message: message.into(), advice: advice.into(), is_misuse: true }.into()
}

/// 0 for success, and for a reader of standard output that has seen enough; 1 for a failure, 2 for
/// a wrong command line, and the signal's for one that ended the command, which are explained on
/// standard error.
pub(crate) fn exit_code(result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            note(&explain(&error));
            ExitCode::from(code_of(&error))
        }
    }
}

fn code_of(error: &Error) -> u8 {
    if let Some(Ended(ending)) = error.downcast_ref() {
        return ending.exit_code();
    }
    // Settings of producers and consumers come from flags.
    let is_misuse = error.downcast_ref::<Advised>().is_some_and(|advised| advised.is_misuse)
        || matches!(error.downcast_ref(), Some(BuildError::Setting { .. }));
    if is_misuse { 2 } else { 1 }
}

fn is_broken_pipe(error: &Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// The error with its causes on one line, and under it what to do next.
pub(crate) fn explain(error: &Error) -> String {
    let mut text = "error: ".to_owned();
    let mut last = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // Many errors repeat their cause in their own text.
        if last.contains(&cause) {
            continue;
        }
        if !last.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
        last = cause;
    }
    if let Some(advice) = advice(error) {
        text.push_str("\nnext: ");
        text.push_str(&advice);
    }
    text
}

fn advice(error: &Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(own) = cause.downcast_ref::<Advised>() {
            return Some(own.advice.clone());
        }
        if let Some(error) = cause.downcast_ref::<ConnectError>() {
            return of_connect(error);
        }
        if let Some(error) = cause.downcast_ref::<AdminError>() {
            return of_admin(error);
        }
        match cause.downcast_ref::<BuildError>() {
            Some(BuildError::Broker(error)) => return of_admin(error),
            Some(BuildError::Setting { .. }) => return Some(SEE_HELP.to_owned()),
            None => {}
        }
        if let Some(error) = cause.downcast_ref::<SendError>() {
            return of_send(error);
        }
        if let Some(error) = cause.downcast_ref::<DeliveryError>() {
            return of_delivery(error);
        }
        cause.downcast_ref::<ConsumerError>().and_then(of_consumer)
    })
}

const START_ONE: &str = "start a broker with `millstream serve`, or name a running one with \
                         --bootstrap HOST:PORT (and its authority with --ca FILE)";

const SEE_HELP: &str = "`--help` says what each flag takes";

const MAKE_ROOM: &str = "make room on the broker's disk, or shorten retention.ms of a topic";

const SHOW_ONE: &str = "show a certificate with --cert FILE and --cert-key FILE; a broker of your \
                        own keeps an administrator's in tls/admin.pem and tls/admin.key of its \
                        data directory";

const TRUST_IT: &str = "name the certificate authority of that broker's cluster with --ca FILE; \
                        `millstream serve` keeps it in tls/ca.pem of its data directory";

/// A broker that answers and is not trusted, or does not trust, is told from one that is not there
/// by its words: they are all that the client passes on.
fn of_unreachable(failures: &AddressFailures) -> String {
    let said = |words: &str| failures.0.iter().any(|failure| failure.reason.contains(words));
    let advice = if said("client certificate") || said("client's certificate") {
        SHOW_ONE
    } else if said("certificate") {
        TRUST_IT
    } else {
        START_ONE
    };
    advice.to_owned()
}

fn of_connect(error: &ConnectError) -> Option<String> {
    match error {
        ConnectError::Unreachable { failures } => Some(of_unreachable(failures)),
        ConnectError::NoAuthority => Some(
            "name the cluster's certificate authority with --ca FILE; `millstream serve` keeps it \
             in tls/ca.pem of its data directory"
                .to_owned(),
        ),
        ConnectError::File { .. } | ConnectError::Tls { .. } => {
            Some("check --ca, --cert and --cert-key".to_owned())
        }
        ConnectError::NoBootstrap | ConnectError::Setting { .. } => None,
    }
}

fn of_admin(error: &AdminError) -> Option<String> {
    match error {
        // Not that of a record: what was asked for, or its answer, is too large for one message.
        AdminError::Service { code: ErrorCode::LimitExceeded, .. } => Some(
            "ask for fewer topics at a time; `millstream topic list` counts the partitions of one \
             that has too many to be described"
                .to_owned(),
        ),
        AdminError::Service { code, .. } => Some(of_code(*code)),
        AdminError::TimedOut => Some(
            "try again; if the broker is busy, give it longer with --timeout, for example 60s"
                .to_owned(),
        ),
        AdminError::Unreachable { failures } => Some(of_unreachable(failures)),
        AdminError::Protocol { .. } => None,
    }
}

/// Every code has its next step.
fn of_code(code: ErrorCode) -> String {
    let advice = match code {
        ErrorCode::UnknownTopic => {
            "`millstream topic list` shows the topics there are; make one with `millstream topic \
             create NAME`"
        }
        ErrorCode::UnknownPartition => {
            "`millstream topic describe NAME` shows the partitions there are"
        }
        ErrorCode::TopicExists => {
            "`millstream topic describe NAME` shows its settings, `millstream topic alter NAME` \
             changes them"
        }
        ErrorCode::InvalidConfig => "`millstream topic configs` lists settings and their values",
        ErrorCode::OffsetOutOfRange => "start at --from earliest",
        ErrorCode::NoSpace => MAKE_ROOM,
        ErrorCode::StorageFenced => {
            "the broker's log names the file and what is wrong with it; once the disk works and \
             the file is right, if need be from a copy, restart the broker; or delete the topic"
        }
        ErrorCode::BatchTooLarge | ErrorCode::LimitExceeded => {
            "send less at once, or raise the topic's max.message.bytes; `produce --file F --lines` \
             takes each line of a file as a record"
        }
        ErrorCode::InvalidTimestamp => {
            "check the clocks, or set the topic's message.timestamp.after.max.ms and \
             message.timestamp.before.max.ms"
        }
        ErrorCode::InvalidTopicName => "names have letters, digits, `.`, `_` and `-`, at most 249",
        ErrorCode::InvalidRequest => "the message says what is accepted; see --help",
        ErrorCode::Unauthorized => "show a certificate that may, with --cert and --cert-key",
        ErrorCode::UnsupportedVersion => "use a client and a broker of versions that go together",
        ErrorCode::CorruptBatch | ErrorCode::UnsupportedBatch => {
            "the client that wrote the batch is at fault: update it, or report the defect"
        }
        ErrorCode::OutOfOrderSequence | ErrorCode::FencedProducer | ErrorCode::UnknownProducer => {
            "start the producer again: it gets a new identity"
        }
        ErrorCode::None
        | ErrorCode::Internal
        | ErrorCode::TimedOut
        | ErrorCode::Unavailable
        | ErrorCode::NotLeader
        | ErrorCode::FencedLeaderEpoch
        | ErrorCode::NotEnoughReplicas => "try again",
    };
    advice.to_owned()
}

fn of_send(error: &SendError) -> Option<String> {
    match error {
        SendError::Topic { error, .. } => of_admin(error),
        SendError::UnknownPartition { .. } => Some(of_code(ErrorCode::UnknownPartition)),
        SendError::RecordTooLarge { .. } => Some(of_code(ErrorCode::BatchTooLarge)),
        SendError::InvalidTimestamp { .. } | SendError::TooManyHeaders { .. } => {
            Some("correct the record, and produce it and those after it again".to_owned())
        }
        SendError::Closed => None,
    }
}

fn of_delivery(error: &DeliveryError) -> Option<String> {
    // What was retried in vain is told by its words alone.
    let no_space = |reason: &str| {
        reason.contains(&ErrorCode::NoSpace.to_string()).then(|| MAKE_ROOM.to_owned())
    };
    match error {
        DeliveryError::Rejected { code, .. } => Some(of_code(*code)),
        DeliveryError::Expired { last_error } => no_space(last_error),
        DeliveryError::Unknown { reason } => no_space(reason),
        DeliveryError::OutOfOrderSequence { .. }
        | DeliveryError::Fenced
        | DeliveryError::Encoding { .. }
        | DeliveryError::Abandoned => None,
    }
}

fn of_consumer(error: &ConsumerError) -> Option<String> {
    match error {
        ConsumerError::OffsetOutOfRange { earliest, latest, .. } => Some(format!(
            "start with --from earliest (now {earliest}), or an offset up to {latest}"
        )),
        ConsumerError::CorruptBatch { .. } => Some(
            "check the broker's disk; --from a later offset reads what comes after the damage"
                .to_owned(),
        ),
        ConsumerError::Service { code, .. } => Some(of_code(*code)),
        ConsumerError::Unreachable { .. } => Some(
            "see that the broker runs, then read again, with --from and --partition where this \
             ended; --timeout waits longer, --follow for ever"
                .to_owned(),
        ),
        ConsumerError::Broker(error) => of_admin(error),
        ConsumerError::OffsetGap { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use millstream_client::AddressFailure;

    use super::*;
    use crate::signals::Ending;

    fn unknown_topic() -> AdminError {
        AdminError::Service { code: ErrorCode::UnknownTopic, message: "no topic `x`".to_owned() }
    }

    #[test]
    fn a_failure_says_what_to_do_next() {
        let failures: [(Error, &str); 5] = [
            (
                ConnectError::Unreachable { failures: AddressFailures(Vec::new()) }.into(),
                "millstream serve",
            ),
            (unknown_topic().into(), "millstream topic create"),
            (BuildError::Broker(unknown_topic()).into(), "millstream topic create"),
            (
                SendError::Topic { topic: "x".into(), error: unknown_topic() }.into(),
                "millstream topic create",
            ),
            (advised("the directory is not empty", "choose another"), "choose another"),
        ];
        for (error, expected) in failures {
            let text = explain(&error.context("while testing"));
            assert!(text.starts_with("error: while testing: "), "{text}");
            let next = text.split_once("\nnext: ").map(|(_, next)| next);
            assert!(next.is_some_and(|next| next.contains(expected)), "{text}");
        }
    }

    #[test]
    fn a_broker_that_cannot_be_trusted_is_not_taken_for_one_that_is_not_there() {
        let advice = |reason: &str| {
            let address = "b:9092".to_owned();
            let failure = AddressFailure { address, reason: reason.to_owned() };
            of_unreachable(&AddressFailures(vec![failure]))
        };
        assert_eq!(advice("b:9092: the broker requires a client certificate"), SHOW_ONE);
        assert_eq!(advice("the broker does not trust this client's certificate"), SHOW_ONE);
        assert_eq!(advice("the broker is not trusted: invalid peer certificate"), TRUST_IT);
        assert_eq!(advice("no answer within 3s"), START_ONE);
    }

    #[test]
    fn a_cause_that_is_quoted_already_is_not_repeated() {
        let error = Error::from(unknown_topic()).context("topic x: unknown-topic: no topic `x`");
        let text = explain(&error);
        assert_eq!(text.matches("no topic").count(), 1, "{text}");
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let broken = io::Error::from(io::ErrorKind::BrokenPipe);
        let result = Err(broken).context("cannot print");
        assert_eq!(format!("{:?}", exit_code(result)), format!("{:?}", ExitCode::SUCCESS));
        let other = Err(io::Error::from(io::ErrorKind::StorageFull)).context("cannot print");
        assert_eq!(format!("{:?}", exit_code(other)), format!("{:?}", ExitCode::FAILURE));
    }

    #[test]
    fn an_answer_that_is_too_large_is_no_record_that_is() {
        let message = "the response cannot be sent".to_owned();
        let error = AdminError::Service { code: ErrorCode::LimitExceeded, message };
        let text = explain(&error.into());
        assert!(text.contains("topic list") && !text.contains("max.message.bytes"), "{text}");
    }

    #[test]
    fn a_signal_has_its_own_exit_code() {
        let ends = |ending| format!("{:?}", exit_code(Err(Ended(ending).into())));
        assert_eq!(ends(Ending::Interrupt), format!("{:?}", ExitCode::from(130)));
        assert_eq!(ends(Ending::Terminate), format!("{:?}", ExitCode::from(143)));
    }

    #[test]
    fn a_wrong_command_line_is_told_from_a_failure() {
        let ends = |error: Error| format!("{:?}", exit_code(Err(error)));
        assert_eq!(ends(misused("no topic is named", "name")), format!("{:?}", ExitCode::from(2)));
        let setting = BuildError::Setting { setting: "batch_bytes", reason: "1 to 2".to_owned() };
        assert_eq!(ends(setting.into()), format!("{:?}", ExitCode::from(2)));
        assert_eq!(ends(advised("no such topic", "name")), format!("{:?}", ExitCode::FAILURE));
    }
}
