//! Makes a failure smaller: fewer faults, fewer hosts, a shorter time, a plainer network. The same oracle must fail.
//!
//! Faults by delta debugging (Zeller, Hildebrandt 2002): drop a part of the list, the parts becoming smaller.

use std::time::Duration;

use crate::{failure::Failure, fault::Kind, link::LinkSpec, run::quiet_end, scenario::Scenario, span::Span};

/// The most runs of one shrinking.
const MAX_RUNS: usize = 2_000;

/// Shrinks a failure.
pub struct Shrinker<'a> {
    best: Failure,
    runs: usize,
    /// Told after each run: how many there were, and the smallest failure so far.
    told: &'a mut dyn FnMut(usize, &Failure),
}

impl<'a> Shrinker<'a> {
    /// Begins with a failure that was found.
    pub fn new(failure: Failure, told: &'a mut dyn FnMut(usize, &Failure)) -> Self {
        Self { best: failure, runs: 0, told }
    }

    /// The smallest failure that was found.
    pub fn shrink(mut self) -> Failure {
        loop {
            let before = self.best.clone();
            self.end_soon();
            self.drop_faults();
            self.drop_hosts();
            self.simplify();
            self.shorten_faults();
            if self.best.scenario == before.scenario || self.runs >= MAX_RUNS {
                return self.best;
            }
        }
    }

    /// Whether the same oracle fails in this scenario; keeps it if so.
    fn fails(&mut self, scenario: Scenario) -> bool {
        if scenario == self.best.scenario || self.runs >= MAX_RUNS {
            return false;
        }
        self.runs += 1;
        let found = Failure::find(&scenario).ok().flatten().filter(|failure| failure.oracle == self.best.oracle);
        let fails = found.is_some();
        if let Some(failure) = found {
            self.best = failure;
        }
        (self.told)(self.runs, &self.best);
        fails
    }

    /// What comes after the violation does not matter; a shorter time leaves out what is not needed.
    fn end_soon(&mut self) {
        let Ok(run) = crate::run::Run::new(&self.best.scenario) else { return };
        let seconds = run.finish(true).virtual_seconds;
        let end = Span::from_secs(seconds.ceil() as u64 + 1);
        if end < self.best.scenario.duration {
            let mut scenario = self.best.scenario.clone();
            scenario.duration = end;
            scenario.fault.retain(|fault| fault.at < end);
            self.fails(scenario);
        }
    }

    fn drop_faults(&mut self) {
        let mut size = self.best.scenario.fault.len().div_ceil(2);
        while size > 0 {
            let mut from = 0;
            while from < self.best.scenario.fault.len() {
                let mut scenario = self.best.scenario.clone();
                let to = (from + size).min(scenario.fault.len());
                scenario.fault.drain(from..to);
                if !self.fails(scenario) {
                    from += size;
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
        for place in (0..self.best.scenario.fault.len()).rev() {
            while self.drop_one_host_of(place) {}
        }
    }

    /// A fault of several hosts may need fewer.
    fn drop_one_host_of(&mut self, place: usize) -> bool {
        let Some(count) = self.best.scenario.fault.get(place).map(|fault| fault.hosts.len()) else { return false };
        (0..count).filter(|_| count > 1).any(|host| {
            let mut scenario = self.best.scenario.clone();
            scenario.fault[place].hosts.remove(host);
            self.fails(scenario)
        })
    }

    /// Fewer hosts: those with the highest numbers go, and the faults are given to those that stay.
    fn drop_hosts(&mut self) {
        let mut step = self.best.scenario.hosts / 2;
        while step > 0 {
            while self.best.scenario.hosts > step + 1
                && self.fails(with_hosts(&self.best.scenario, self.best.scenario.hosts - step))
            {}
            step /= 2;
        }
    }

    fn simplify(&mut self) {
        let changes: [fn(&mut Scenario); 7] = [
            |scenario| scenario.link = LinkSpec::default(),
            |scenario| scenario.link_in = LinkSpec::none(),
            |scenario| scenario.cable.clear(),
            |scenario| scenario.containers = 0,
            |scenario| scenario.racks = 1,
            |scenario| scenario.zones = 1,
            |scenario| scenario.stagger = Span::ZERO,
        ];
        for change in changes {
            let mut scenario = self.best.scenario.clone();
            change(&mut scenario);
            self.fails(scenario);
        }
    }

    fn shorten_faults(&mut self) {
        for place in 0..self.best.scenario.fault.len() {
            loop {
                let mut scenario = self.best.scenario.clone();
                let Some(lasts) =
                    scenario.fault[place].lasts.as_mut().filter(|lasts| lasts.0 > Duration::from_millis(500))
                else {
                    break;
                };
                *lasts = Span(lasts.0 / 2);
                if !self.fails(scenario) {
                    break;
                }
            }
        }
    }
}

/// The same with fewer hosts; whoever is not there any more hands his faults to another.
fn with_hosts(scenario: &Scenario, hosts: usize) -> Scenario {
    let mut smaller = scenario.clone();
    smaller.hosts = hosts;
    smaller.racks = smaller.racks.min(hosts as u16);
    smaller.zones = smaller.zones.min(hosts as u16);
    let gone = scenario.hosts - hosts;
    for fault in &mut smaller.fault {
        let joins = fault.kind == Kind::Join;
        let moved = fault
            .indexes()
            .into_iter()
            .map(|host| if joins || host >= scenario.hosts { host - gone } else { host % hosts });
        let mut names: Vec<String> = moved.map(crate::world::name).collect();
        names.dedup();
        fault.hosts = names;
    }
    smaller.cable.clear();
    // A quiet time is as long as it must be for so many.
    let last = smaller.fault.iter().map(|fault| fault.at.0 + fault.lasts.unwrap_or_default().0).max();
    let needed = last.unwrap_or_default() + quiet_end(hosts + smaller.joining()) + Duration::from_secs(1);
    smaller.duration = smaller.duration.min(Span(needed.max(Duration::from_secs(10))));
    smaller
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;

    #[test]
    fn faults_of_hosts_that_are_gone_are_given_to_others() {
        let mut scenario = Scenario { hosts: 10, ..Scenario::default() };
        scenario.fault =
            vec![Fault::new(Span::ZERO, None, Kind::Crash, &[8]), Fault::new(Span::ZERO, None, Kind::Join, &[10])];
        let smaller = with_hosts(&scenario, 5);
        assert_eq!(smaller.fault[0].hosts, ["h4"]);
        assert_eq!(smaller.fault[1].hosts, ["h6"]);
        assert_eq!(smaller.check(), Ok(()));
    }
}
