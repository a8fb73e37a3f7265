//! From a node's outputs to another's inputs.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ringmesh_node::{Class, Frame, Node, Output, Reach, Way, health::spec::ProbeRequest};
use ringmesh_proto::{
    HostId, Uplink,
    disk::HistoryRecord,
    frame,
    member::Member,
    peer::{EventRecord, Gossip, RepairState, Request, Response, SyncRequest, SyncResponse, request, response},
};

use super::{CLUSTER, World, id, index, repair::UnderWay};
use crate::{
    host::{BACKLOG, STREAM_BOUND, Stream, StreamKey, Waiting},
    link::Passage,
};

/// A frame that is not acknowledged is sent again after so long, doubled each time up to the second.
const RESEND: (Duration, Duration) = (Duration::from_millis(30), Duration::from_secs(1));

/// A connection over which a frame got nowhere for so long is given up: `SILENT` of the agent's `quic/connection.rs`.
const SILENT: Duration = Duration::from_secs(4);

/// After which the next connection is tried: the first `BACKOFF` of the agent's `quic/table.rs`.
const REDIAL: Duration = Duration::from_millis(400);

/// For which a kernel is waited for: `PATIENCE` of the agent's `reach.rs`.
const PATIENCE: Duration = Duration::from_millis(150);

/// What a stopped process finds comes before its timers.
const AFTER_INPUTS: Duration = Duration::from_micros(1);

/// Bytes of IP and UDP in front of each datagram, as they count for the rate.
const OVERHEAD: usize = 28;

pub(super) enum Event {
    Wake(u32),
    Datagram {
        from: u32,
        to: u32,
        uplink: Uplink,
        bytes: Bytes,
    },
    /// The first frame of a stream.
    Frame {
        from: u32,
        key: StreamKey,
        number: u64,
    },
    Ask(Box<Ask>),
    Answer(Box<Answer>),
    Probed {
        host: u32,
        life: u32,
        request: Box<ProbeRequest>,
    },
    Act(Box<UnderWay>),
    Kept {
        host: u32,
        life: u32,
        version: u64,
        state: Arc<RepairState>,
    },
    Reached {
        host: u32,
        life: u32,
        of: HostId,
        uplink: Uplink,
        reach: Reach,
    },
    Synced {
        host: u32,
        write: u64,
    },
    /// The disk has taken a shard of histories, or is full.
    Written {
        host: u32,
        life: u32,
        shard: u8,
        histories: Vec<HistoryRecord>,
    },
    /// It has arrived, and its process did not run then or takes its time.
    Late(Box<Event>),
}

pub(super) struct Ask {
    from: u32,
    life: u32,
    to: u32,
    uplink: Uplink,
    /// By this host.
    via: Option<u32>,
    request: SyncRequest,
}

pub(super) struct Answer {
    from: u32,
    to: u32,
    life: u32,
    uplink: Uplink,
    via: Option<u32>,
    response: SyncResponse,
}

impl Event {
    fn target(&self) -> u32 {
        match self {
            Self::Wake(host)
            | Self::Probed { host, .. }
            | Self::Kept { host, .. }
            | Self::Reached { host, .. }
            | Self::Synced { host, .. }
            | Self::Written { host, .. } => *host,
            Self::Act(under_way) => under_way.host,
            Self::Datagram { to, .. } => *to,
            Self::Frame { key, .. } => key.to,
            Self::Ask(ask) => ask.to,
            Self::Answer(answer) => answer.to,
            Self::Late(event) => event.target(),
        }
    }
}

impl World {
    /// One event, unless the network or the state of its host are in its way.
    pub(super) fn turn(&mut self, event: Event) {
        let late = matches!(event, Event::Late(_));
        let event = if let Event::Late(event) = event { *event } else { event };
        if let Event::Synced { host, write } = event {
            return self.synced(host, write);
        }
        if !late && !self.arrives(&event) {
            return;
        }
        let host = &mut self.hosts[event.target() as usize];
        if host.paused_until > self.now {
            let mut at = host.paused_until;
            match &event {
                Event::Wake(_) => at += AFTER_INPUTS,
                Event::Datagram { .. } => {
                    host.backlog += 1;
                    if host.backlog > BACKLOG {
                        self.tally.datagrams_under_way -= 1;
                        self.tally.datagrams_unheard += 1;
                        return;
                    }
                }
                Event::Frame { .. }
                | Event::Ask(_)
                | Event::Answer(_)
                | Event::Probed { .. }
                | Event::Act(_)
                | Event::Kept { .. }
                | Event::Reached { .. }
                | Event::Synced { .. }
                | Event::Written { .. }
                | Event::Late(_) => {}
            }
            return self.push(at, Event::Late(Box::new(event)));
        }
        host.backlog = 0;
        if !late && !host.slow.is_zero() {
            let at = self.now + host.slow;
            return self.push(at, Event::Late(Box::new(event)));
        }
        self.handle(event);
    }

    /// Whether the network lets it through now.
    fn arrives(&mut self, event: &Event) -> bool {
        match event {
            Event::Datagram { from, to, uplink, .. } => {
                let open = self.network.is_open(*from, *to, *uplink);
                if !open {
                    self.tally.datagrams_under_way -= 1;
                    self.tally.datagrams_lost += 1;
                }
                open
            }
            Event::Frame { from, key, number } => self.frame_arrives(*from, *key, *number),
            Event::Ask(ask) => self.is_open_by(ask.from, ask.via, ask.to, ask.uplink),
            Event::Answer(answer) => self.is_open_by(answer.from, answer.via, answer.to, answer.uplink),
            Event::Wake(_)
            | Event::Probed { .. }
            | Event::Act(_)
            | Event::Kept { .. }
            | Event::Reached { .. }
            | Event::Synced { .. }
            | Event::Written { .. }
            | Event::Late(_) => true,
        }
    }

    fn handle(&mut self, event: Event) {
        let target = event.target();
        let place = target as usize;
        let now = self.time(place);
        if let Event::Frame { from, key, number } = event {
            return self.take_frame(from, key, number);
        }
        if let Event::Datagram { .. } = event {
            self.tally.datagrams_under_way -= 1;
        }
        let host = &mut self.hosts[place];
        let Some(node) = &mut host.node else {
            self.tally.datagrams_unheard += u64::from(matches!(event, Event::Datagram { .. }));
            return;
        };
        match event {
            Event::Wake(_) => {
                if host.wake.is_none_or(|wake| wake > self.now) {
                    return;
                }
                host.wake = None;
                let due = node.poll_timeout();
                if due > self.now {
                    // What it was for has been done since.
                    host.wake = Some(due);
                    return self.push(due, Event::Wake(target));
                }
                self.trace.note(self.now, "wake", target.into(), 0, 0);
                node.handle_timeout(now);
            }
            Event::Datagram { from, uplink, bytes, .. } => {
                self.tally.datagrams_in += 1;
                self.trace.note(self.now, "datagram", target.into(), from.into(), uplink.index() as u64);
                self.trace.bytes(&bytes);
                node.handle_datagram(now, id(from as usize), uplink, bytes);
            }
            Event::Ask(ask) => {
                let response = node.handle_sync_request(now, &ask.request);
                self.trace.note(self.now, "ask", target.into(), ask.from.into(), ask.request.have.len() as u64);
                self.answer(*ask, response);
            }
            Event::Answer(answer) => {
                if answer.life != host.life {
                    return;
                }
                let members = answer.response.members.len() as u64;
                self.trace.note(self.now, "answer", target.into(), answer.from.into(), members);
                node.handle_sync_response(now, id(answer.from as usize), answer.response);
            }
            Event::Reached { life, of, uplink, reach, .. } => {
                if life != host.life {
                    return;
                }
                self.trace.note(self.now, "reach", target.into(), of.raw().into(), reach as u64);
                node.handle_reach(now, of, uplink, reach);
            }
            Event::Probed { life, request, .. } => {
                if life != host.life {
                    return;
                }
                let reply = self.answer_probe(target, &request);
                self.trace.note(self.now, "probed", target.into(), reply.id.0, (!reply.sign.is_right()).into());
                if let Some(node) = &mut self.hosts[place].node {
                    node.handle_probe_reply(now, reply);
                }
            }
            Event::Act(under_way) => {
                self.trace.note(self.now, "act", target.into(), 0, 0);
                self.go_on(*under_way);
            }
            Event::Kept { life, version, state, .. } => {
                self.trace.note(self.now, "kept", target.into(), version, 0);
                self.kept(target, life, version, state);
            }
            Event::Written { life, shard, histories, .. } => {
                if life != host.life {
                    return;
                }
                let success = !host.disk.full;
                self.trace.note(self.now, "written", target.into(), shard.into(), success.into());
                node.handle_written(now, shard, success);
                if success {
                    host.disk.histories.insert(shard, histories);
                }
            }
            Event::Frame { .. } | Event::Synced { .. } | Event::Late(_) => {}
        }
        self.tally.events += 1;
        self.drain(place);
    }

    /// Takes what a node wants done, shows and needs next.
    pub(super) fn drain(&mut self, place: usize) {
        let now = self.time(place);
        let views = self.settings.views;
        let host = &mut self.hosts[place];
        let Some(node) = &mut host.node else { return };
        let outputs: Vec<Output> = std::iter::from_fn(|| node.poll_output()).collect();
        let wake = node.poll_timeout().max(now.instant);
        if !views {
            self.changes.extend(node.take_changes().into_iter().map(|change| (place, change)));
        } else if let Some(view) = node.poll_view(now) {
            host.view = view;
        }
        // After the view: to be shown is a timer, too.
        let wake = if views { node.poll_timeout().max(now.instant) } else { wake };
        if host.wake.is_none_or(|earlier| wake < earlier) {
            host.wake = Some(wake);
            self.push(wake, Event::Wake(place as u32));
        }
        self.tally.most_outputs = self.tally.most_outputs.max(outputs.len());
        for output in outputs {
            self.carry(place as u32, output);
        }
    }

    fn carry(&mut self, from: u32, output: Output) {
        let life = self.hosts[from as usize].life;
        match output {
            Output::Datagram { to, uplink, bytes } => self.send_datagram(from, to, uplink, bytes),
            Output::Gossip { to, uplink, class, frame, .. } => self.send_frame(from, to, uplink, class, frame),
            Output::Sync { to, way, request } => self.ask(from, to, way, request),
            // No container of a scenario has a member inside.
            Output::Inside { .. } => {}
            Output::Probe(request) => {
                let takes = self.probe_takes(from, request.id, request.pid, request.timeout);
                self.push(self.now + takes, Event::Probed { host: from, life, request: Box::new(request) });
            }
            Output::Reach { to, uplink } => {
                let reach = self.reach(from, to, uplink);
                let takes = match (reach, self.locate(to, uplink)) {
                    (Reach::Silent, _) | (_, None) => PATIENCE,
                    (_, Some(at)) => {
                        let there = self.network.carry(from, at, uplink, self.now.as_nanos(), 64).0;
                        there + self.network.carry(at, from, uplink, self.now.as_nanos(), 64).0
                    }
                };
                let reach = if takes > PATIENCE { Reach::Silent } else { reach };
                let at = self.now + takes.min(PATIENCE);
                self.push(at, Event::Reached { host: from, life, of: to.id, uplink, reach });
            }
            Output::Persist(state) => {
                let disk = &mut self.hosts[from as usize].disk;
                disk.written = Some(state);
                disk.writes += 1;
                let write = disk.writes;
                self.push(self.now + self.settings.sync, Event::Synced { host: from, write });
            }
            Output::Act { operation, act } => self.begin_act(from, operation, act),
            Output::Keep { version, state } => self.begin_keep(from, version, state),
            Output::Remember { shard, histories } => {
                let at = self.now + self.settings.sync;
                self.push(at, Event::Written { host: from, life, shard, histories });
            }
            Output::Pin(_) => {}
            Output::Left => {
                let disk = &mut self.hosts[from as usize].disk;
                disk.durable = disk.written.take().or(disk.durable.take());
                self.kill(from as usize);
                self.hosts[from as usize].left = true;
            }
        }
    }

    fn send_datagram(&mut self, from: u32, to: Member, uplink: Uplink, bytes: Bytes) {
        let len = bytes.len() + OVERHEAD;
        self.tally.datagrams += 1;
        self.count_sent(from, len, false);
        let Some(to) = self.locate(to, uplink) else {
            self.tally.datagrams_unheard += 1;
            return;
        };
        match self.network.pass(from, to, uplink, self.now.as_nanos(), len) {
            Passage::Arrives(delay, copy) => {
                self.tally.datagrams_under_way += 1;
                if let Some(copy) = copy {
                    self.tally.datagrams += 1;
                    self.tally.datagrams_under_way += 1;
                    self.push(self.now + copy, Event::Datagram { from, to, uplink, bytes: bytes.clone() });
                }
                self.push(self.now + delay, Event::Datagram { from, to, uplink, bytes });
            }
            Passage::Lost | Passage::Full => self.tally.datagrams_lost += 1,
        }
    }

    fn count_sent(&mut self, from: u32, len: usize, frame: bool) {
        self.tally.bytes += len as u64;
        let sent = &mut self.sent[from as usize];
        sent.bytes += len as u64;
        if frame {
            sent.frames += 1;
        } else {
            sent.datagrams += 1;
        }
    }

    /// Puts a frame on its stream: over this uplink or, if the connection there is broken, over the other.
    fn send_frame(&mut self, from: u32, member: Member, uplink: Uplink, class: Class, frame: Frame) {
        let now = self.now;
        let len = frame.encoded_len();
        self.tally.frames += 1;
        self.count_sent(from, len, true);
        let streams = &self.hosts[from as usize].streams;
        let usable = |uplink: &Uplink| {
            let to = self.locate(member, *uplink)?;
            let stream = streams.get(&StreamKey { to, uplink: *uplink, class });
            let broken = stream.and_then(|stream| stream.broken_until).is_some_and(|until| until > now);
            (!broken).then_some(StreamKey { to, uplink: *uplink, class })
        };
        let Some(key) = [uplink, uplink.other()].iter().find_map(usable) else {
            self.tally.frames_lost += 1;
            return;
        };
        let delay = self.network.carry(from, key.to, key.uplink, now.as_nanos(), len).0;
        let life = self.hosts[key.to as usize].life;
        let stream = self.hosts[from as usize].streams.entry(key).or_insert_with(|| Stream::new(life));
        stream.broken_until = None;
        if stream.life != life {
            // The connection was to a process that is no more.
            self.tally.frames_under_way -= stream.frames.len() as u64;
            self.tally.frames_lost += stream.frames.len() as u64;
            *stream = Stream::new(life);
        }
        if stream.frames.len() >= STREAM_BOUND[class as usize] {
            self.tally.frames_lost += 1;
            return;
        }
        self.tally.frames_under_way += 1;
        stream.frames.push_back(Waiting { frame, len: len as u32, sent: now, due: now + delay });
        self.tally.longest_stream = self.tally.longest_stream.max(stream.frames.len());
        if stream.frames.len() == 1 {
            self.connections += 1;
            stream.number = self.connections;
            let number = stream.number;
            self.push(now + delay, Event::Frame { from, key, number });
        }
    }

    fn stream(&mut self, from: u32, key: StreamKey, number: u64) -> Option<&mut Stream> {
        let stream = self.hosts[from as usize].streams.get_mut(&key);
        stream.filter(|stream| stream.number == number && !stream.frames.is_empty())
    }

    /// Whether the first frame of a stream gets through. If not, it is sent again, or the connection is given up.
    fn frame_arrives(&mut self, from: u32, key: StreamKey, number: u64) -> bool {
        let now = self.now;
        let open = self.network.is_open(from, key.to, key.uplink);
        let Some(stream) = self.stream(from, key, number) else { return false };
        if open {
            return true;
        }
        let head = stream.frames.front().map_or(now, |waiting| waiting.sent);
        if now.since(head) >= SILENT {
            self.break_stream(from, key);
            return false;
        }
        let wait = (RESEND.0 * (1 << stream.tries.min(6))).min(RESEND.1);
        stream.tries += 1;
        self.push(now + wait, Event::Frame { from, key, number });
        false
    }

    fn break_stream(&mut self, from: u32, key: StreamKey) {
        let until = self.now + REDIAL;
        let Some(stream) = self.hosts[from as usize].streams.get_mut(&key) else { return };
        self.tally.frames_under_way -= stream.frames.len() as u64;
        self.tally.frames_lost += stream.frames.len() as u64;
        *stream = Stream { broken_until: Some(until), ..Stream::new(stream.life) };
    }

    /// The first frame of a stream has arrived; the next one follows.
    fn take_frame(&mut self, from: u32, key: StreamKey, number: u64) {
        let place = key.to as usize;
        let (life, runs) = (self.hosts[place].life, self.hosts[place].node.is_some());
        let Some(stream) = self.stream(from, key, number) else { return };
        if stream.life != life || !runs {
            return self.break_stream(from, key);
        }
        stream.tries = 0;
        let Some(waiting) = stream.frames.pop_front() else { return };
        let next = stream.frames.front().map(|next| next.due);
        if let Some(due) = next {
            self.push(due.max(self.now), Event::Frame { from, key, number });
        }
        self.tally.frames_under_way -= 1;
        self.tally.frames_in += 1;
        self.tally.events += 1;
        self.trace.note(self.now, "gossip", key.to.into(), from.into(), waiting.len.into());
        let now = self.time(place);
        let gossip = if self.settings.wire {
            let bytes = waiting.frame.bytes();
            assert!(bytes.len() <= frame::PREFIX_LEN + frame::MAX_GOSSIP, "a node sends what is taken");
            let decoded = frame::decode_gossip(&bytes[frame::PREFIX_LEN..], CLUSTER);
            decoded.expect("a node sends what it reads").gossip
        } else {
            let relays = waiting.frame.relay_to().is_some();
            let node = self.hosts[place].node.as_deref().filter(|_| !relays);
            waiting.frame.gossip().map(|gossip| node.map_or_else(|| gossip.clone(), |node| unknown(node, gossip)))
        };
        if let Some(node) = &mut self.hosts[place].node {
            let (sender, gossip) = (id(from as usize), gossip.unwrap_or_default());
            match waiting.frame.relay_to() {
                None => node.handle_gossip(now, sender, gossip),
                Some(to) => node.handle_relay(now, sender, to, gossip),
            }
        }
        self.drain(place);
    }

    /// Asks over the uplink that works, as the agent does over the one on which it heard the other last.
    fn ask(&mut self, from: u32, member: Member, way: Way, request: SyncRequest) {
        let via = way.via.and_then(|relay| self.locate(relay, way.uplink));
        let open = |uplink: &Uplink| {
            let to = self.locate(member, *uplink)?;
            let there = self.is_open_by(from, via, to, *uplink) && self.is_open_by(to, via, from, *uplink);
            there.then_some((to, *uplink))
        };
        let Some((to, uplink)) = Uplink::BOTH.iter().find_map(open) else { return };
        let request = if self.settings.wire { recode_request(request) } else { request };
        let len = 12 + request.have.len() * 20 + request.digests.len() * 8;
        self.count_sent(from, len, false);
        let delay = self.network.carry(from, to, uplink, self.now.as_nanos(), len).0;
        let life = self.hosts[from as usize].life;
        self.push(self.now + delay, Event::Ask(Box::new(Ask { from, life, to, uplink, via, request })));
    }

    /// Whether a message gets through that goes directly, or by a third host.
    fn is_open_by(&self, from: u32, via: Option<u32>, to: u32, uplink: Uplink) -> bool {
        match via {
            Some(via) => self.network.is_open(from, via, uplink) && self.network.is_open(via, to, uplink),
            None => self.network.is_open(from, to, uplink),
        }
    }

    fn answer(&mut self, ask: Ask, response: SyncResponse) {
        let response = if self.settings.wire { recode_response(response) } else { response };
        let len = 12 + response.members.len() * 50;
        let Ask { from: to, life, to: from, uplink, via, .. } = ask;
        self.count_sent(from, len, false);
        let delay = self.network.carry(from, to, uplink, self.now.as_nanos(), len).0;
        self.push(self.now + delay, Event::Answer(Box::new(Answer { from, to, life, uplink, via, response })));
    }

    fn synced(&mut self, host: u32, write: u64) {
        let disk = &mut self.hosts[host as usize].disk;
        if disk.writes == write && !disk.full && disk.written.is_some() {
            disk.durable = disk.written.take();
        }
    }

    /// The host that listens at this address now.
    fn locate(&self, to: Member, uplink: Uplink) -> Option<u32> {
        let place = index(to.id)?;
        let here = self.hosts.get(place)?.config.me.address(uplink);
        (here.is_some() && here == to.address(uplink)).then_some(place as u32)
    }

    fn reach(&self, from: u32, to: Member, uplink: Uplink) -> Reach {
        let found = self.locate(to, uplink);
        let found = found.filter(|to| self.network.is_open_both_ways(from, *to, uplink));
        match found.map(|to| &self.hosts[to as usize]).filter(|host| host.powered) {
            Some(host) if host.node.is_none() => Reach::Refused,
            Some(_) => Reach::Answers,
            None => Reach::Silent,
        }
    }
}

impl Stream {
    fn new(life: u32) -> Self {
        Self { life, number: 0, frames: Default::default(), tries: 0, broken_until: None }
    }
}

/// What a node does not have of some gossip, as it would find itself: of a burst of events each comes from many neighbours.
fn unknown(node: &Node, gossip: &Gossip) -> Gossip {
    let is_known = |event: &EventRecord| {
        event.zone == 0 && (event.generation, event.seq) <= node.events_of(HostId::new(event.origin))
    };
    Gossip {
        hosts: gossip.hosts.clone(),
        events: gossip.events.iter().filter(|event| !is_known(event)).cloned().collect(),
        accusations: gossip.accusations.clone(),
        zones: gossip.zones.clone(),
        zone: gossip.zone,
        has: gossip.has.clone(),
        signed: gossip.signed.clone(),
    }
}

fn recode_request(sync: SyncRequest) -> SyncRequest {
    let body = Some(request::Body::Sync(sync));
    let bytes = frame::encode(&Request { version: frame::VERSION, cluster: CLUSTER.raw(), body });
    assert!(bytes.len() <= frame::PREFIX_LEN + frame::MAX_REQUEST, "a node asks what is taken");
    match frame::decode_request(&bytes[frame::PREFIX_LEN..], Some(CLUSTER)).map(|request| request.body) {
        Ok(Some(request::Body::Sync(sync))) => sync,
        other => panic!("a node reads what it sends: {other:?}"),
    }
}

fn recode_response(sync: SyncResponse) -> SyncResponse {
    let bytes = frame::encode(&Response { version: frame::VERSION, body: Some(response::Body::Sync(sync)) });
    assert!(bytes.len() <= frame::PREFIX_LEN + frame::MAX_RESPONSE, "a node answers what is taken");
    match frame::decode_response(&bytes[frame::PREFIX_LEN..]).map(|response| response.body) {
        Ok(Some(response::Body::Sync(sync))) => sync,
        other => panic!("a node reads what it sends: {other:?}"),
    }
}
