//! Whatever the order of commands, turns and polls: each watch is told of all that concerns it, in order, once, a revision
//! at a time; and progress overtakes nothing.

use std::collections::BTreeMap;

use proptest::prelude::*;
use ringmesh_proto::etcd::{
    etcdserverpb::{WatchCreateRequest, WatchResponse, watch_create_request::FilterType},
    mvccpb::{Event, event::EventType},
};

use super::{model::Model, *};

#[derive(Clone, Debug)]
enum Step {
    Apply(Change),
    Watch(usize, WatchCreateRequest),
    Cancel(usize, i64),
    CatchUp,
    Poll(usize, usize),
    RequestProgress(usize),
    NotifyProgress,
    Checkpoint,
    Tidy,
    Move,
}

const STREAMS: usize = 2;

fn request() -> impl Strategy<Value = WatchCreateRequest> {
    let start = prop_oneof![1 => Just(0), 2 => -2..25_i64];
    (strategy::range(), start, any::<(bool, bool, bool)>(), 0..6_i32).prop_map(|(range, start, flags, filter)| {
        let filters = if filter < 2 { vec![filter] } else { Vec::new() };
        WatchCreateRequest {
            key: range.key,
            range_end: range.range_end,
            start_revision: start,
            progress_notify: flags.0,
            filters,
            prev_kv: flags.1,
            watch_id: 0,
            fragment: flags.2,
        }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => strategy::change().prop_map(Step::Apply),
        4 => (0..STREAMS, request()).prop_map(|(stream, request)| Step::Watch(stream, request)),
        1 => (0..STREAMS, 0..3_i64).prop_map(|(stream, watch)| Step::Cancel(stream, watch)),
        6 => Just(Step::CatchUp),
        6 => (0..STREAMS, 0..400_usize).prop_map(|(stream, budget)| Step::Poll(stream, budget)),
        1 => (0..STREAMS).prop_map(Step::RequestProgress),
        1 => Just(Step::NotifyProgress),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Tidy),
        1 => Just(Step::Move),
    ]
}

/// What a client knows of a watch.
#[derive(Debug)]
struct Watch {
    request: WatchCreateRequest,
    start: i64,
    events: Vec<Event>,
    /// Of the last response, if the rest of it is to come.
    is_fragment: bool,
    /// As it stood when the watch ended.
    ended: Option<WatchResponse>,
}

struct Run {
    kv: Kv,
    model: Model,
    streams: [StreamId; STREAMS],
    watches: BTreeMap<(usize, i64), Watch>,
    /// Those that were made, whose answers have not come.
    asked: [Vec<(WatchCreateRequest, i64)>; STREAMS],
    ended: Vec<Watch>,
    /// How often progress was asked for, and told.
    asked_progress: [usize; STREAMS],
    told_progress: [usize; STREAMS],
}

fn settings() -> Settings {
    // Room for two or three events.
    Settings { stream_bytes: 240, ..Settings::default() }
}

impl Run {
    fn new() -> Self {
        let mut kv = Kv::open(Memory::default(), settings()).unwrap();
        let streams = [kv.open_stream(), kv.open_stream()];
        let (watches, asked) = (BTreeMap::new(), [Vec::new(), Vec::new()]);
        Self {
            kv,
            model: Model::default(),
            streams,
            watches,
            asked,
            ended: Vec::new(),
            asked_progress: [0; STREAMS],
            told_progress: [0; STREAMS],
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Apply(change) => {
                if self.kv.check(&change).is_ok() {
                    assert_eq!(apply(&mut self.kv, change.clone()), self.model.apply(&change));
                }
            }
            Step::Watch(stream, request) => {
                if self.kv.is_stream_stuck(self.streams[stream]) {
                    return;
                }
                let start = if request.start_revision == 0 { self.kv.revision() + 1 } else { request.start_revision };
                self.kv.watch(self.streams[stream], &request);
                self.asked[stream].push((request, start));
            }
            Step::Cancel(stream, watch) => self.kv.cancel_watch(self.streams[stream], watch),
            Step::CatchUp => _ = self.kv.catch_up(),
            Step::Poll(stream, budget) => _ = self.poll(stream, budget),
            Step::RequestProgress(stream) => {
                self.kv.request_progress(self.streams[stream]);
                self.asked_progress[stream] += 1;
            }
            Step::NotifyProgress => self.kv.notify_progress(),
            Step::Checkpoint => _ = checkpoint(&mut self.kv),
            Step::Tidy => _ = self.kv.tidy(),
            Step::Move => {
                let watchers = self.kv.take_watchers();
                self.kv.adopt_watchers(watchers);
            }
        }
    }

    fn poll(&mut self, stream: usize, budget: usize) -> bool {
        let Some(response) = self.kv.poll_watch(self.streams[stream], budget) else { return false };
        let revision = response.header.as_ref().unwrap().revision;
        if response.created {
            self.created(stream, response);
        } else if response.canceled {
            let mut watch = self.watches.remove(&(stream, response.watch_id)).unwrap();
            assert!(!watch.is_fragment);
            watch.ended = Some(response);
            self.ended.push(watch);
        } else if response.events.is_empty() {
            if response.watch_id == -1 {
                self.told_progress[stream] += 1;
                assert!(self.told_progress[stream] <= self.asked_progress[stream], "nobody asked");
            }
            for ((of, id), watch) in &self.watches {
                if *of == stream && (response.watch_id == -1 || response.watch_id == *id) {
                    assert!(watch.request.progress_notify || response.watch_id == -1);
                    assert!(watch.start <= revision + 1, "progress before the start");
                    let expected = self.expected(watch, revision);
                    assert_eq!(watch.events.len(), expected.len(), "progress overtook events: {watch:?}");
                }
            }
        } else {
            self.told(stream, response);
        }
        true
    }

    fn created(&mut self, stream: usize, response: WatchResponse) {
        let (request, start) = self.asked[stream].remove(0);
        let is_empty = !request.range_end.is_empty() && request.range_end != "\0" && request.range_end <= request.key;
        let is_too_much = response.cancel_reason == "etcdserver: too many requests";
        assert_eq!(response.canceled, is_empty || is_too_much);
        if response.canceled {
            assert_eq!(response.watch_id, -1);
            return;
        }
        let watch = Watch { request, start, events: Vec::new(), is_fragment: false, ended: None };
        let before = self.watches.insert((stream, response.watch_id), watch);
        assert!(before.is_none(), "an id that is in use");
    }

    fn told(&mut self, stream: usize, response: WatchResponse) {
        let watch = self.watches.get_mut(&(stream, response.watch_id)).expect("events of a watch that is there");
        let main = |event: &Event| event.kv.as_ref().unwrap().mod_revision;
        if let Some(last) = watch.events.last().filter(|_| !watch.is_fragment) {
            assert!(main(last) < main(&response.events[0]), "a revision is told of as one");
        }
        assert!(watch.request.fragment || !response.fragment);
        assert!(response.header.unwrap().revision >= main(response.events.last().unwrap()));
        watch.is_fragment = response.fragment;
        watch.events.extend(response.events);
    }

    /// What a watch should have been told, up to a revision.
    fn expected(&self, watch: &Watch, to: i64) -> Vec<Event> {
        let mut events = Vec::new();
        for record in &self.model.all {
            let is_put = record.version > 0;
            let filter = if is_put { FilterType::Noput } else { FilterType::Nodelete };
            let is_inside = model::is_inside(&record.key, &watch.request.key, &watch.request.range_end);
            let is_within = watch.start <= record.mod_revision && record.mod_revision <= to;
            if is_inside && is_within && !watch.request.filters.contains(&filter.into()) {
                let kind = if is_put { EventType::Put } else { EventType::Delete };
                let before = self.model.keys(record.mod_revision - 1).remove(&record.key);
                // A key that is made has nothing before it, even if it was deleted in the same transaction.
                let is_new = record.create_revision == record.mod_revision;
                let prev_kv = before.filter(|_| watch.request.prev_kv && !is_new);
                events.push(Event { r#type: kind.into(), kv: Some(record.clone()), prev_kv });
            }
        }
        events
    }

    /// That what came is what should have, or the beginning of it.
    fn check_events(&self, watch: &Watch, is_whole: bool) {
        let mut expected = self.expected(watch, self.model.revision);
        assert!(
            watch.events.len() <= expected.len() && (!is_whole || watch.events.len() == expected.len()),
            "{watch:?}"
        );
        for (event, expected) in watch.events.iter().zip(&mut expected) {
            let before = event.kv.as_ref().unwrap().mod_revision - 1;
            if event.prev_kv.is_none() && before < self.model.compacted {
                expected.prev_kv = None;
            }
            assert_eq!(event, expected);
        }
    }

    /// As the owner does: only streams that are named are polled, until they are empty.
    fn finish(&mut self) {
        loop {
            let is_behind = self.kv.catch_up();
            let mut is_polled = false;
            while let Some(id) = self.kv.poll_ready() {
                let stream = self.streams.iter().position(|of| *of == id).unwrap();
                while self.poll(stream, 300) {
                    is_polled = true;
                }
            }
            if !is_behind && !is_polled {
                break;
            }
        }
        for watch in self.watches.values() {
            assert!(!watch.is_fragment);
            self.check_events(watch, true);
        }
        for watch in &self.ended {
            self.check_events(watch, false);
            let ended = watch.ended.as_ref().unwrap();
            if ended.compact_revision != 0 {
                assert_eq!(ended.header.as_ref().unwrap().revision, 0);
                assert!(watch.start < ended.compact_revision && ended.compact_revision <= self.model.compacted);
            }
        }
        for stream in 0..STREAMS {
            let mut watches = self.watches.iter().filter(|((of, _), _)| *of == stream);
            let starts_later = watches.any(|(_, watch)| watch.start > self.model.revision + 1);
            let is_told = self.asked_progress[stream] == 0 || self.told_progress[stream] > 0;
            assert!(is_told || starts_later, "progress was never told");
            assert!(self.asked[stream].is_empty(), "a watch was never answered");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_watch_is_told_of_all_once_and_in_order(steps in prop::collection::vec(step(), 0..90)) {
        let mut run = Run::new();
        steps.into_iter().for_each(|step| run.step(step));
        run.finish();
    }
}
