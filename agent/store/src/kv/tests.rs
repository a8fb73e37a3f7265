//! The store against a model that keeps everything, under any order of commands, checkpoints and losses of power.

mod backend;
mod model;
mod opening;
mod power;
mod properties;
mod ranges;
mod request;
mod room;
mod semantics;
mod snapshots;
mod strategy;
mod watch_answers;
mod watches;

use ringmesh_proto::{
    etcd::etcdserverpb::{DeleteRangeRequest, PutRequest, WatchCreateRequest, alarm_request::AlarmAction},
    store::{Command, command::Change},
};

use self::backend::Memory;
use super::*;

/// A store on an empty backend.
fn empty() -> Kv {
    Kv::open(Memory::default(), Settings::default()).unwrap()
}

/// Applies a change after all others.
fn apply(kv: &mut Kv, change: Change) -> Result<Outcome, Refusal> {
    let index = kv.applied().index + 1;
    kv.apply(index, 1, &Command { id: index, change: Some(change) })
}

/// Checks a change as its proposer does, and applies it.
fn propose(kv: &mut Kv, change: Change) -> Result<Outcome, Refusal> {
    kv.check(&change)?;
    apply(kv, change)
}

/// Writes a checkpoint.
fn checkpoint(kv: &mut Kv) -> bool {
    let Some(checkpoint) = kv.begin_checkpoint() else { return false };
    let written = checkpoint.write().unwrap();
    kv.end_checkpoint(written);
    true
}

#[test]
fn what_goes_to_other_threads_can() {
    fn is_send<T: Send>() {}
    is_send::<Kv>();
    is_send::<Checkpoint>();
    is_send::<Written>();
    is_send::<Snapshot>();
    is_send::<HashWork>();
    is_send::<Restore>();
}
