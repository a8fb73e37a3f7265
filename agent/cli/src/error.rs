//! Why a command failed, and the exit status that tells scripts so.

use std::{error::Error, fmt::Write as _, io, process::ExitCode};

use tonic::{Code, Status};

/// One line each: what, why, and what to do next. The variants are the exit statuses of the contract.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// 1
    #[error("{0}")]
    Failed(String),
    /// 2: a fault of whoever typed it.
    #[error("{0}")]
    Usage(String),
    /// 3
    #[error("{0}")]
    Unreachable(String),
    /// 4
    #[error("{0}")]
    NotFound(String),
    /// 5: no right to it, or it contradicts what is there.
    #[error("{0}")]
    Refused(String),
    /// 6
    #[error("{0}")]
    TimedOut(String),
    /// Whoever read our output has gone, as in `| head`: no fault.
    #[error("the output is closed")]
    OutputClosed,
    /// A program that ran on the user's behalf ended so; it has said why itself.
    #[error("ended with status {0}")]
    Exit(u8),
}

impl CliError {
    /// Of something that failed below, its causes on the same line.
    pub(crate) fn failed(error: &(dyn Error + 'static)) -> Self {
        Self::Failed(chain(error))
    }

    /// Of something below that knows the contract's exit statuses.
    pub(crate) fn with_status(status: u8, error: &(dyn Error + 'static)) -> Self {
        let message = chain(error);
        match status {
            2 => Self::Usage(message),
            3 => Self::Unreachable(message),
            4 => Self::NotFound(message),
            5 => Self::Refused(message),
            6 => Self::TimedOut(message),
            _ => Self::Failed(message),
        }
    }

    /// Says where to look for the name that was not found: `command`, or the list of hosts if it was a host's.
    pub(crate) fn or_see(self, command: &str) -> Self {
        match self {
            Self::NotFound(message) if message.starts_with("there is no host ") => {
                Self::NotFound(format!("{message}: see `ringmesh host list`"))
            }
            Self::NotFound(message) => Self::NotFound(format!("{message}: see `{command}`")),
            other @ (Self::Failed(_)
            | Self::Usage(_)
            | Self::Unreachable(_)
            | Self::Refused(_)
            | Self::TimedOut(_)
            | Self::OutputClosed
            | Self::Exit(_)) => other,
        }
    }

    /// What the agent at `address` answered.
    pub(crate) fn of_status(status: &Status, address: &str) -> Self {
        let message = if status.message().is_empty() {
            status.code().description().to_lowercase()
        } else {
            one_line(status.message())
        };
        // Not the agent's words: the connection broke under the call.
        let broken = status.source().is_some();
        if broken && is_tls_alert(status) {
            return Self::distrust(address, status);
        }
        match status.code() {
            Code::NotFound => Self::NotFound(message),
            Code::InvalidArgument | Code::OutOfRange => Self::Usage(message),
            Code::PermissionDenied | Code::Unauthenticated => Self::Refused(format!(
                "{message}: use the host's own socket as root, or an operator's certificate with --cert and --key"
            )),
            Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted | Code::ResourceExhausted => {
                Self::Refused(message)
            }
            Code::DeadlineExceeded => {
                Self::TimedOut(format!("{address}: {message}: try again, or wait longer with --timeout"))
            }
            // tonic's own server says so of a deadline that passed.
            Code::Cancelled if message.contains("imeout expired") => {
                Self::TimedOut(format!("{address} did not answer in time: try again, or wait longer with --timeout"))
            }
            Code::Unavailable => {
                Self::Unreachable(format!("{address}: {message}: try again, or name another host with --host"))
            }
            Code::Unknown | Code::Internal | Code::Cancelled if broken => Self::Unreachable(format!(
                "{address} ended the connection ({message}): does its agent still run? Name another host with --host"
            )),
            Code::Unimplemented => Self::Failed(format!(
                "{address} does not know this request: its agent is of another version; compare with `ringmesh version`"
            )),
            Code::Ok | Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss => {
                Self::Failed(format!("{address}: {message}: its agent's log may say more"))
            }
        }
    }

    /// The connection to `address` was made, and one side does not accept the other's certificate.
    pub(crate) fn distrust(address: &str, error: &(dyn Error + 'static)) -> Self {
        Self::Refused(format!(
            "{address} and this program do not trust each other ({}): check --ca, --cert and --key",
            chain(error)
        ))
    }

    /// The status to end with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::OutputClosed => ExitCode::SUCCESS,
            Self::Failed(_) => ExitCode::from(1),
            Self::Usage(_) => ExitCode::from(2),
            Self::Unreachable(_) => ExitCode::from(3),
            Self::NotFound(_) => ExitCode::from(4),
            Self::Refused(_) => ExitCode::from(5),
            Self::TimedOut(_) => ExitCode::from(6),
            Self::Exit(code) => ExitCode::from(*code),
        }
    }

    /// Whether there is anything to tell.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Self::OutputClosed | Self::Exit(_))
    }
}

/// Of writing output; nothing else here does I/O without saying what failed.
impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::OutputClosed;
        }
        Self::Failed(format!("cannot write the output ({}): is the disk full?", reason(&error)))
    }
}

/// Whether the other side ended the TLS session. With TLS 1.3 a client learns only after its own handshake that its
/// certificate was refused, from whatever reads next, and by then the error has been wrapped beyond its type.
pub(crate) fn is_tls_alert(error: &(dyn Error + 'static)) -> bool {
    chain(error).contains("received fatal alert")
}

/// An error of the system in words, without its number.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            // Writing to a String does not fail.
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    one_line(&text)
}

/// `text` without line breaks and other control characters, which an agent may have passed on from anywhere.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_exit_status() {
        let cases = [
            (Code::NotFound, 4),
            (Code::InvalidArgument, 2),
            (Code::PermissionDenied, 5),
            (Code::Unauthenticated, 5),
            (Code::FailedPrecondition, 5),
            (Code::AlreadyExists, 5),
            (Code::Aborted, 5),
            (Code::ResourceExhausted, 5),
            (Code::DeadlineExceeded, 6),
            (Code::Unavailable, 3),
            (Code::Unimplemented, 1),
            (Code::Internal, 1),
            (Code::Cancelled, 1),
        ];
        for (code, expected) in cases {
            let error = CliError::of_status(&Status::new(code, "first\nsecond\x1b[31m"), "unix:/x");
            assert_eq!(error.exit_code(), ExitCode::from(expected), "{code:?}");
            assert!(!error.to_string().contains(char::is_control), "{code:?}: {error}");
        }
        let expired = CliError::of_status(&Status::cancelled("Timeout expired"), "unix:/x");
        assert_eq!(expired.exit_code(), ExitCode::from(6));
    }
}
