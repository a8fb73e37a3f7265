//! What every runtime driver can be asked, and what it may say no to.

use std::{io, path::PathBuf};

use futures_util::future::BoxFuture;
use ringmesh_node::health::spec::{ContainerState, ContainerStatus};
use tokio::sync::mpsc;

use super::process::ProcessId;
use crate::config::Container;

/// The answer of a driver, later.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, DriverError>>;

/// One way to run containers.
///
/// `list` and `inspect` are there in every driver. The other verbs are there if [`Capabilities`] says so; a driver
/// that does not advertise a verb answers [`DriverError::Unsupported`], it never pretends.
pub trait Driver: Send + Sync + 'static {
    /// As in `ContainerSpec::driver`.
    fn name(&self) -> &'static str;

    /// Which of the optional verbs work.
    fn capabilities(&self) -> Capabilities;

    /// Every container that this driver knows.
    fn list(&self) -> Answer<'_, Vec<Observed>>;

    /// One container; [`ContainerState::Absent`] if the driver does not know it.
    fn inspect<'a>(&'a self, name: &'a str) -> Answer<'a, Observed>;

    /// Makes the container anew and starts its first process. Leaves nothing behind if it fails or is dropped halfway.
    fn start<'a>(&'a self, _container: &'a Container) -> Answer<'a, ()> {
        self.unsupported(Verb::Start)
    }

    /// Kills every process of the container and waits for their end. The container stays known.
    fn stop<'a>(&'a self, _name: &'a str) -> Answer<'a, ()> {
        self.unsupported(Verb::Stop)
    }

    /// Stops the container if need be, and removes all traces of it but its log.
    fn delete<'a>(&'a self, _name: &'a str) -> Answer<'a, ()> {
        self.unsupported(Verb::Delete)
    }

    /// Freezes every process of the container.
    fn pause<'a>(&'a self, _name: &'a str) -> Answer<'a, ()> {
        self.unsupported(Verb::Pause)
    }

    /// Lets a paused container go on.
    fn resume<'a>(&'a self, _name: &'a str) -> Answer<'a, ()> {
        self.unsupported(Verb::Resume)
    }

    /// Stops the container if need be, and starts it anew.
    fn restart<'a>(&'a self, container: &'a Container) -> Answer<'a, ()> {
        Box::pin(async move {
            self.delete(&container.name).await?;
            self.start(container).await
        })
    }

    /// From now on tells of containers that may have changed without an order of ours, until nobody listens.
    ///
    /// A driver whose containers change only by orders and by the end of their first process has nothing to tell.
    fn watch(&self, _changed: mpsc::Sender<Vec<String>>) {}

    /// Bounds what the containers have written to their logs; called from time to time.
    fn trim_logs(&self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// The answer to a verb that is not advertised.
    fn unsupported(&self, verb: Verb) -> Answer<'static, ()> {
        let driver = self.name();
        Box::pin(std::future::ready(Err(DriverError::Unsupported { driver, verb })))
    }
}

/// The optional verbs that a driver has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// [`Driver::start`].
    pub start: bool,
    /// [`Driver::stop`].
    pub stop: bool,
    /// [`Driver::delete`].
    pub delete: bool,
    /// [`Driver::pause`].
    pub pause: bool,
    /// [`Driver::resume`].
    pub resume: bool,
}

/// An optional verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// [`Driver::start`].
    Start,
    /// [`Driver::stop`].
    Stop,
    /// [`Driver::delete`].
    Delete,
    /// [`Driver::pause`].
    Pause,
    /// [`Driver::resume`].
    Resume,
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Delete => "delete",
            Self::Pause => "pause",
            Self::Resume => "resume",
        })
    }
}

/// A container as its driver sees it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// For the host loop.
    pub status: ContainerStatus,
    /// Its first process, so that its end can be awaited; only while running or paused.
    pub process: Option<ProcessId>,
}

impl Observed {
    /// A container that the driver does not know.
    pub fn absent(name: &str) -> Self {
        let status = ContainerStatus { name: name.into(), state: ContainerState::Absent, ..Default::default() };
        Self { status, process: None }
    }
}

/// Why a driver could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// Of the operator: the root file system cannot be used.
    #[error("root file system {path}: {problem}")]
    Rootfs {
        /// As configured.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Of the operator: a program is not installed.
    #[error("cannot run {program}; install it, or choose another container.oci.runtime")]
    Program {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Of the asker: no such verb.
    #[error("the driver {driver} cannot {verb} a container")]
    Unsupported {
        /// Its name.
        driver: &'static str,
        /// What was asked.
        verb: Verb,
    },
    /// Of the asker: no such container, or it is in another state.
    #[error("container {name} is not {state}")]
    State {
        /// Of the container.
        name: String,
        /// What it would have to be.
        state: &'static str,
    },
    /// Of the operator: the container is somebody else's.
    #[error("{name} at {socket} was not made by this agent and is not {verb}; do that yourself, or remove it")]
    Foreign {
        /// Its name at the daemon.
        name: String,
        /// The daemon's.
        socket: PathBuf,
        /// "replaced" or "removed".
        verb: &'static str,
    },
    /// Of the platform: the daemon that runs the containers cannot be asked.
    #[error("the container daemon at {socket} does not answer: {message}; does it run?")]
    Daemon {
        /// The daemon's.
        socket: PathBuf,
        /// What was heard instead, in one line.
        message: String,
    },
    /// Of the platform: the container runtime failed.
    #[error("{runtime}: {message}")]
    Runtime {
        /// "libcontainer", "crun", "runc" or "docker-api".
        runtime: &'static str,
        /// Its own words, in one line.
        message: String,
    },
    /// Of the platform: the container's network could not be made.
    #[error("network: cannot {what}: {message}")]
    Network {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        message: String,
    },
    /// Of the platform: a file or a process.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl DriverError {
    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    /// The error and its causes in one line of at most 300 bytes.
    pub fn one_line(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        one_line(&text)
    }
}

/// The most bytes of a problem that are reported.
pub(super) const MAX_PROBLEM: usize = 300;

/// `text` without line breaks and control characters, cut to [`MAX_PROBLEM`] bytes.
pub(super) fn one_line(text: &str) -> String {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    let mut line = words.join(" ");
    if line.len() > MAX_PROBLEM {
        let end = (0..=MAX_PROBLEM).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
        line.truncate(end);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_bounded_line_with_its_causes() {
        let source = io::Error::other("two\nlines");
        let error = DriverError::io("read", "/x")(source);
        assert_eq!(error.one_line(), "cannot read /x: two lines");
        assert_eq!(one_line(&"é".repeat(400)).len(), MAX_PROBLEM);
        assert!(one_line(&format!("a{}", "é".repeat(400))).len() < MAX_PROBLEM);
    }
}
