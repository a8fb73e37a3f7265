//! When a lab has converged: every host sees every host alive over both uplinks, all of them in both rings, and every
//! container and service well.
//!
//! Each host is asked what it holds itself, which costs no traffic in the mesh; one host is then asked for the details
//! of the whole cluster.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use ringmesh_proto::v1::{
    self, containers_client::ContainersClient, hosts_client::HostsClient, rings_client::RingsClient,
    services_client::ServicesClient,
};
use tonic::transport::Channel;

use super::{client, error::LabError, record::HostStatus};

/// Between two questions to the same host.
const PAUSE: Duration = Duration::from_millis(100);

/// What a converged lab has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// Alive hosts.
    pub(super) hosts: usize,
    /// Containers a host, each with one service.
    pub(super) containers: u16,
}

/// Waits until every host of `asked` sees what is expected. `alive` says when there is no use in waiting any longer.
pub(super) fn wait(
    asked: &[HostStatus],
    expected: Expected,
    within: Duration,
    alive: &(dyn Fn() -> Result<(), LabError> + Sync),
) -> Result<(), LabError> {
    client::block_on(async {
        let deadline = Instant::now() + within;
        let asked: Vec<_> = asked.iter().map(|host| (host.name.as_str(), client::channel(&host.api))).collect();
        let mut pending: Vec<_> = asked.iter().collect();
        loop {
            let problem = look(&mut pending, &asked, expected).await;
            let Some((host, problem)) = problem else { return Ok(()) };
            alive()?;
            if Instant::now() >= deadline {
                let others = match pending.len() {
                    0 | 1 => String::new(),
                    more => format!(" (and {} more are not content)", more - 1),
                };
                let reason = format!("{host} sees {problem}{others}");
                return Err(LabError::TimedOut { seconds: within.as_secs(), reason });
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
}

/// Waits until every host of `asked` sees one host alive with all that runs on it.
pub(super) fn wait_for_host(
    asked: &[HostStatus],
    name: &str,
    containers: u16,
    within: Duration,
    alive: &(dyn Fn() -> Result<(), LabError> + Sync),
) -> Result<(), LabError> {
    client::block_on(async {
        let deadline = Instant::now() + within;
        for observer in asked {
            let mut hosts = HostsClient::new(client::channel(&observer.api));
            loop {
                let problem = match hosts.list_hosts(client::bounded(v1::ListHostsRequest::default())).await {
                    Ok(response) => match response.into_inner().hosts.iter().find(|host| host.name == name) {
                        Some(host) => host_problem(host, containers),
                        None => Some(format!("no {name}")),
                    },
                    Err(status) => Some(no_answer(&status)),
                };
                let Some(problem) = problem else { break };
                alive()?;
                if Instant::now() >= deadline {
                    let reason = format!("{} sees {problem}", observer.name);
                    return Err(LabError::TimedOut { seconds: within.as_secs(), reason });
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    })
}

type Asked<'a> = (&'a str, Channel);

/// Asks those that were not content yet, and when all are, one host for all details. Returns what is wrong first.
async fn look<'a>(
    pending: &mut Vec<&'a Asked<'a>>,
    asked: &'a [Asked<'a>],
    expected: Expected,
) -> Option<(&'a str, String)> {
    let mut first = None;
    let mut still = Vec::new();
    for host in pending.iter().copied() {
        if let Some(problem) = ask(host.1.clone(), expected).await {
            first.get_or_insert((host.0, problem));
            still.push(host);
        }
    }
    *pending = still;
    if first.is_some() {
        return first;
    }
    let (name, channel) = asked.first()?;
    let problem = ask_for_all(channel.clone(), expected).await?;
    // A host that was content may not be any more.
    *pending = asked.iter().collect();
    Some((name, problem))
}

async fn ask(channel: Channel, expected: Expected) -> Option<String> {
    let hosts = HostsClient::new(channel.clone()).list_hosts(client::bounded(v1::ListHostsRequest::default())).await;
    let hosts = match hosts {
        Ok(response) => response.into_inner().hosts,
        Err(status) => return Some(no_answer(&status)),
    };
    if let Some(problem) = hosts_problem(&hosts, expected) {
        return Some(problem);
    }
    match RingsClient::new(channel).list_rings(client::bounded(v1::ListRingsRequest {})).await {
        Ok(response) => rings_problem(&response.into_inner().rings, &hosts),
        Err(status) => Some(no_answer(&status)),
    }
}

async fn ask_for_all(channel: Channel, expected: Expected) -> Option<String> {
    let wanted = expected.hosts * usize::from(expected.containers);
    let mut client = ContainersClient::new(channel.clone());
    let (mut request, mut count) = (v1::ListContainersRequest::default(), 0);
    loop {
        let page = match client.list_containers(client::bounded(request.clone())).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Some(no_answer(&status)),
        };
        if let Some(bad) = page.containers.iter().find(|container| container.state() != v1::container::State::Running) {
            return Some(format!("container {} {}: {}", bad.name, bad.state().as_str_name(), bad.problem));
        }
        count += page.containers.len();
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    if count != wanted {
        return Some(format!("{count} containers of {wanted}"));
    }
    let mut client = ServicesClient::new(channel);
    let (mut request, mut count) = (v1::ListServicesRequest::default(), 0);
    loop {
        let page = match client.list_services(client::bounded(request.clone())).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Some(no_answer(&status)),
        };
        if let Some(bad) = page.services.iter().find(|service| service.verdict() != v1::verdict::Value::Passing) {
            let verdict = bad.verdict().as_str_name();
            return Some(format!("service {} of {} {verdict}: {}", bad.name, bad.container, bad.last_answer));
        }
        count += page.services.len();
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    (count != wanted).then(|| format!("{count} services of {wanted}"))
}

fn hosts_problem(hosts: &[v1::Host], expected: Expected) -> Option<String> {
    let present: Vec<_> = hosts.iter().filter(|host| host.state() != v1::host::State::Left).collect();
    let problem = present.iter().find_map(|host| host_problem(host, expected.containers));
    let missing =
        || (present.len() != expected.hosts).then(|| format!("{} hosts of {}", present.len(), expected.hosts));
    problem.or_else(missing)
}

fn host_problem(host: &v1::Host, containers: u16) -> Option<String> {
    let name = &host.name;
    if host.state() != v1::host::State::Alive {
        return Some(format!("{name} {}", host.state().as_str_name()));
    }
    let uplinks = host.uplinks.unwrap_or_default();
    for (uplink, state) in [("a", uplinks.a()), ("b", uplinks.b())] {
        if state != v1::uplink::State::Up {
            return Some(format!("uplink {uplink} of {name} {}", state.as_str_name()));
        }
    }
    let digest = host.digest.unwrap_or_default();
    let wanted = u32::from(containers);
    if (digest.containers, digest.running) != (wanted, wanted) {
        return Some(format!("{} of {wanted} containers of {name} run", digest.running));
    }
    if (digest.services, digest.passing) != (wanted, wanted) {
        return Some(format!("{} of {wanted} services of {name} pass", digest.passing));
    }
    None
}

fn rings_problem(rings: &[v1::Ring], hosts: &[v1::Host]) -> Option<String> {
    // The rings are those of the zone of the host that answers.
    let zone = hosts.iter().find(|host| host.local).map(|host| host.zone.as_str());
    let present = hosts.iter().filter(|host| host.state() != v1::host::State::Left);
    let present = present.filter(|host| zone.is_none_or(|zone| zone == host.zone));
    let wanted: BTreeSet<_> = present.map(|host| host.name.as_str()).collect();
    for name in ["a", "b"] {
        let Some(ring) = rings.iter().find(|ring| ring.name == name) else { return Some(format!("no ring {name}")) };
        let there: BTreeSet<_> = ring.hosts.iter().map(String::as_str).collect();
        if there != wanted || ring.hosts.len() != wanted.len() {
            return Some(format!("ring {name} with {} hosts of {}", ring.hosts.len(), wanted.len()));
        }
    }
    None
}

fn no_answer(status: &tonic::Status) -> String {
    format!("nothing: its API says {}: {}", status.code(), status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: Expected = Expected { hosts: 2, containers: 4 };

    fn host(name: &str) -> v1::Host {
        let up = v1::uplink::State::Up.into();
        v1::Host {
            name: name.into(),
            state: v1::host::State::Alive.into(),
            uplinks: Some(v1::Uplinks { a: up, b: up, ..v1::Uplinks::default() }),
            digest: Some(v1::Digest { containers: 4, running: 4, services: 4, passing: 4, ..v1::Digest::default() }),
            ..v1::Host::default()
        }
    }

    fn ring(name: &str, hosts: &[&str]) -> v1::Ring {
        v1::Ring { name: name.into(), mode: "switched".into(), hosts: hosts.iter().map(|h| (*h).into()).collect() }
    }

    #[test]
    fn each_thing_that_is_not_well_is_named() {
        let good = [host("h1"), host("h2")];
        assert_eq!(hosts_problem(&good, EXPECTED), None);
        let with = |change: fn(&mut v1::Host)| {
            let mut hosts = good.clone();
            change(&mut hosts[1]);
            hosts_problem(&hosts, EXPECTED)
        };
        assert_eq!(with(|h| h.state = v1::host::State::Suspect.into()).as_deref(), Some("h2 suspect"));
        assert_eq!(with(|h| h.uplinks = None).as_deref(), Some("uplink a of h2 none"));
        assert_eq!(with(|h| h.digest = None).as_deref(), Some("0 of 4 containers of h2 run"));
        let critical = with(|h| h.digest.as_mut().expect("set").passing = 3);
        assert_eq!(critical.as_deref(), Some("3 of 4 services of h2 pass"));
        assert_eq!(hosts_problem(&good[..1], EXPECTED).as_deref(), Some("1 hosts of 2"));
        // One that left is no part of the cluster any more.
        let mut left = host("h3");
        left.state = v1::host::State::Left.into();
        assert_eq!(hosts_problem(&[good[0].clone(), good[1].clone(), left], EXPECTED), None);
    }

    #[test]
    fn both_rings_must_hold_every_host_once() {
        let hosts = [host("h1"), host("h2")];
        let full = ["h2", "h1"];
        assert_eq!(rings_problem(&[ring("a", &full), ring("b", &full)], &hosts), None);
        for bad in [vec!["h1"], vec!["h1", "h1"], vec!["h1", "h2", "h2"], vec!["h1", "h3"]] {
            assert!(rings_problem(&[ring("a", &full), ring("b", &bad)], &hosts).is_some(), "{bad:?}");
        }
        assert_eq!(rings_problem(&[ring("a", &full)], &hosts).as_deref(), Some("no ring b"));
    }
}
