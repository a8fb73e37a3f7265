//! Any bytes as a file of histories. What is read is shown and written within the bounds of a history, and reads back the same.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use prost::Message;
use ringmesh_node::health::history::{History, MAX_ANSWERS, MAX_CHANGES, MAX_OUTCOMES, Place};
use ringmesh_proto::{UnixMillis, disk::HistoryRecord, history_file};

fuzz_target!(|bytes: &[u8]| {
    let _ = history_file::decode(bytes);
    let Ok(record) = HistoryRecord::decode(bytes) else { return };
    let history = History::read(record, &mut |text| Arc::from(text));
    let shown = history.show(Place { host: "h1", container: "c1", service: "web" }, UnixMillis(1_700_000_000_000));
    assert!(shown.outcomes.len() <= MAX_OUTCOMES && shown.answers.len() <= MAX_ANSWERS);
    assert!(shown.changes.len() <= MAX_CHANGES && shown.windows.len() <= 3);
    let written = history.write("c1", "web");
    let read = history_file::decode(&history_file::encode(&[written.clone()]));
    assert_eq!((read.records.as_slice(), read.damaged), ([written.clone()].as_slice(), 0));
    let again = History::read(written.clone(), &mut |text| Arc::from(text));
    assert_eq!(again.write("c1", "web"), written);
});
