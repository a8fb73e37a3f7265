//! The hands of repair: they do to containers what the node wants done, and keep on disk what it must find again.
//!
//! `<state_dir>/repair.bin` is a `RepairState`. They decide nothing.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use prost::Message;
use ringmesh_node::remedy::{Act, Failure};
use ringmesh_proto::{peer::RepairState, v1::Hold};
use tokio::sync::{mpsc, watch};

use crate::{
    clock,
    config::Config,
    disk::{DiskError, Trouble, one_line_of},
    identity::seeds,
    runtime::{DriverError, Left, RuntimeError, RuntimeHandle},
};

/// Bound of the channel of reports: more operations than a host has open at once.
pub const REPORT_BOUND: usize = 512;

/// What has come of what the node wanted.
#[derive(Debug)]
pub enum Report {
    /// Something was done to a container, or not.
    Done {
        /// For which operation.
        operation: String,
        /// Whether it was.
        result: Result<(), Failure>,
    },
    /// A state is on disk, or cannot be written.
    Kept {
        /// Of that state.
        version: u64,
        /// Why not.
        result: Result<(), String>,
    },
}

/// Does to containers what is to be done.
pub struct Hands {
    runtime: RuntimeHandle,
    reports: mpsc::Sender<Report>,
    state: watch::Sender<Option<(u64, Arc<RepairState>)>>,
}

impl Hands {
    /// Writes below `state_dir` as long as it is there. The reports are for the host loop.
    pub fn new(runtime: RuntimeHandle, state_dir: PathBuf, trouble: Trouble) -> (Self, mpsc::Receiver<Report>) {
        let (reports, receiver) = mpsc::channel(REPORT_BOUND);
        let (state, newest) = watch::channel(None);
        tokio::spawn(keep_latest(state_dir, newest, reports.clone(), trouble));
        (Self { runtime, reports, state }, receiver)
    }

    /// Begins to do this; a report follows.
    pub fn act(&self, operation: String, act: Act) {
        let (runtime, reports) = (self.runtime.clone(), self.reports.clone());
        tokio::spawn(async move {
            let result = carry_out(&runtime, act).await.map_err(|error| Failure {
                removed: matches!(error, RuntimeError::Removed(_)),
                unreachable: matches!(error, RuntimeError::Driver(DriverError::Daemon { .. })),
                text: one_line(&error),
            });
            // Fails only when the agent ends.
            let _ = reports.send(Report::Done { operation, result }).await;
        });
    }

    /// Has this written; one that is not written yet is replaced.
    pub fn keep(&self, version: u64, state: Arc<RepairState>) {
        self.state.send_replace(Some((version, state)));
    }
}

async fn carry_out(runtime: &RuntimeHandle, act: Act) -> Result<(), RuntimeError> {
    match act {
        Act::Restart { container } => runtime.restart(&container).await,
        Act::Clone { container, to, address } => runtime.replace(&container, to, address).await,
        Act::Freeze { container } => runtime.freeze(&container).await,
        Act::Release { container } => runtime.release(&container).await,
    }
}

fn one_line(error: &RuntimeError) -> String {
    match error {
        RuntimeError::Driver(error) => error.one_line(),
        RuntimeError::Removed(error) => {
            format!("the old container is gone, the new one could not be started: {}", error.one_line())
        }
        RuntimeError::Unknown(_) | RuntimeError::Busy(_) | RuntimeError::Ended => error.to_string(),
    }
}

async fn keep_latest(
    state_dir: PathBuf,
    mut newest: watch::Receiver<Option<(u64, Arc<RepairState>)>>,
    reports: mpsc::Sender<Report>,
    trouble: Trouble,
) {
    let mut failing = false;
    while newest.changed().await.is_ok() {
        let Some((version, state)) = newest.borrow_and_update().clone() else { continue };
        let path = path(&state_dir);
        // A thread of its own: fsync(2) may take long.
        let written = tokio::task::spawn_blocking(move || seeds::write_file(&path, &state.encode_to_vec())).await;
        let result = match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(one_line_of(&error)),
            Err(_) => Err("the writer ended".to_owned()),
        };
        if let (false, Err(error)) = (failing, &result) {
            tracing::error!(error, "cannot write down what is held and repaired; it is tried again");
        }
        trouble.note("what is held and repaired", &result);
        failing = result.is_err();
        if reports.send(Report::Kept { version, result }).await.is_err() {
            return;
        }
    }
}

/// Reads what an earlier life of the agent has left; of containers that are not configured any more, no clones.
///
/// A file that is damaged is said, and this host drained: what was frozen is not known, so nothing is done by itself.
pub fn read(state_dir: &Path, config: &Config) -> Result<RepairState, DiskError> {
    let path = path(state_dir);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(RepairState::default()),
        Err(source) => return Err(DiskError::Read { path, source }),
    };
    let mut state = RepairState::decode(&bytes[..]).unwrap_or_else(|error| {
        let reason =
            format!("{} is damaged ({error}): what was frozen is not known; look, then undrain", path.display());
        tracing::error!(reason, "this host repairs nothing by itself");
        let drain = Hold { reason, who: "repair".into(), since: Some(clock::unix().into()), until: None };
        RepairState { drain: Some(drain), ..RepairState::default() }
    });
    state.instances.retain(|name, _| config.containers.iter().any(|container| container.name == *name));
    Ok(state)
}

/// What of it the supervisor of the containers needs.
pub fn left(state: &RepairState) -> Left {
    let replaced = state.instances.values().filter(|instance| !instance.replaces.is_empty());
    Left {
        held: state.holds.keys().cloned().collect(),
        replaced: replaced
            .map(|instance| (instance.name.clone(), instance.replaces.clone()))
            .collect::<BTreeMap<_, _>>(),
    }
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("repair.bin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_said_and_nothing_is_done_by_itself() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let text = "[host]\nname = \"h1\"\n[uplink.a]\naddress = \"10.0.0.1\"\n";
        let config = Config::parse(Path::new("x"), text).expect("it is valid");
        let read = || read(directory.path(), &config).expect("it can be read");
        assert_eq!(read(), RepairState::default());
        std::fs::write(path(directory.path()), [0xff; 9]).expect("it can be written");
        assert!(read().drain.is_some_and(|drain| drain.reason.contains("repair.bin is damaged")));
    }

    #[tokio::test]
    async fn what_is_kept_is_found_again_and_a_full_disk_is_told() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let (reports, mut received) = mpsc::channel(4);
        let (state, newest) = watch::channel(None);
        let trouble = Trouble::default();
        let told = trouble.watch();
        tokio::spawn(keep_latest(directory.path().to_owned(), newest, reports, trouble));
        let hold = Hold { who: "me".into(), ..Hold::default() };
        let kept = RepairState { holds: [("web".to_owned(), hold)].into(), ..RepairState::default() };
        state.send_replace(Some((3, Arc::new(kept.clone()))));
        assert!(matches!(received.recv().await, Some(Report::Kept { version: 3, result: Ok(()) })));
        let bytes = std::fs::read(path(directory.path())).expect("it is there");
        assert_eq!(RepairState::decode(&bytes[..]), Ok(kept));

        // Nothing can be written where a directory stands.
        std::fs::remove_file(path(directory.path())).expect("it is ours");
        std::fs::create_dir_all(path(directory.path()).join("in the way")).expect("it is ours");
        state.send_replace(Some((4, Arc::default())));
        assert!(matches!(received.recv().await, Some(Report::Kept { version: 4, result: Err(_) })));
        assert!(told.borrow().is_some());
        std::fs::remove_dir_all(path(directory.path())).expect("it is ours");
        state.send_replace(Some((5, Arc::default())));
        assert!(matches!(received.recv().await, Some(Report::Kept { version: 5, result: Ok(()) })));
        assert!(path(directory.path()).is_file() && told.borrow().is_none());
    }
}
