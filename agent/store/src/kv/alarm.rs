//! What all members were told is wrong with one of them.

use std::collections::BTreeSet;

use ringmesh_proto::etcd::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType, alarm_request::AlarmAction};

use super::{Refusal, meta};

/// How many may be on: more than there are members, and a bound for clients that make them up.
const ALARMS_MAX: usize = 256;

/// The alarms that are on.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    /// By kind, then member.
    on: BTreeSet<(i32, u64)>,
}

impl Alarms {
    /// As a checkpoint left them.
    pub(super) fn load(rows: &[meta::Alarm]) -> Self {
        Self { on: rows.iter().map(|alarm| (alarm.kind, alarm.member)).collect() }
    }

    /// For a checkpoint.
    pub(super) fn save(&self) -> Vec<meta::Alarm> {
        self.on.iter().map(|(kind, member)| meta::Alarm { member: *member, kind: *kind }).collect()
    }

    /// Whether an alarm of this kind is on.
    pub(super) fn is_on(&self, kind: AlarmType) -> bool {
        self.on.range((kind.into(), 0)..=(kind.into(), u64::MAX)).next().is_some()
    }

    /// Those of a kind; all for [`AlarmType::None`].
    pub(super) fn list(&self, kind: AlarmType) -> Vec<AlarmMember> {
        let is_listed = |of: i32| kind == AlarmType::None || of == i32::from(kind);
        let listed = self.on.iter().filter(|(of, _)| is_listed(*of));
        listed.map(|(kind, member)| AlarmMember { member_id: *member, alarm: *kind }).collect()
    }

    /// What can be refused before it is proposed. A full store must still be able to say so.
    pub(super) fn check(&self, request: &AlarmRequest) -> Result<(), Refusal> {
        let is_new =
            request.action() == AlarmAction::Activate && !self.on.contains(&(request.alarm, request.member_id));
        if is_new && self.on.len() >= ALARMS_MAX { Err(Refusal::TooManyRequests) } else { Ok(()) }
    }

    /// Does what is asked, and returns the alarms that it is about: none if one to be ended is not on.
    pub(super) fn apply(&mut self, request: &AlarmRequest) -> Vec<AlarmMember> {
        let alarm = (request.alarm, request.member_id);
        let is_about_it = match request.action() {
            AlarmAction::Get => return self.list(request.alarm()),
            AlarmAction::Activate => {
                self.on.insert(alarm);
                true
            }
            AlarmAction::Deactivate => self.on.remove(&alarm),
        };
        is_about_it.then_some(AlarmMember { member_id: request.member_id, alarm: request.alarm }).into_iter().collect()
    }
}
