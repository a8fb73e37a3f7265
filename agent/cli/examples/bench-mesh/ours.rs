//! ringmesh: the lab's own agents, observed by two watch streams each, one of events and one of hosts.
//!
//! A stream that breaks, since its agent was killed, is opened again.

use std::{thread, time::Duration};

use ringmesh_agentd::lab::{self, Fault, wait::Watched};
use ringmesh_proto::v1::{self, change::Kind, events_client::EventsClient, host::State};
use tokio::sync::oneshot;

use crate::{
    bench::lab::Lab,
    program::{Program, name, number},
    watch::{Teller, What},
};

/// Before a broken stream is opened again.
const PAUSE: Duration = Duration::from_millis(20);

/// The agents of a lab.
pub(crate) struct Ours<'a> {
    lab: &'a Lab,
    teller: Teller,
    /// The API of each.
    apis: Vec<String>,
    observing: Option<(oneshot::Sender<()>, thread::JoinHandle<()>)>,
}

impl<'a> Ours<'a> {
    pub(crate) fn new(lab: &'a Lab, teller: Teller) -> Result<Self, String> {
        let apis = lab.status()?.hosts.into_iter().map(|host| host.api).collect();
        Ok(Self { lab, teller, apis, observing: None })
    }
}

impl Program for Ours<'_> {
    fn name(&self) -> &'static str {
        "ringmesh"
    }

    fn start(&mut self, host: usize) -> Result<(), String> {
        self.lab.fault(&Fault::Start { host: name(host) })
    }

    fn kill(&mut self, host: usize) -> Result<(), String> {
        if self.lab.status()?.hosts[host].pid.is_none() {
            return Ok(());
        }
        self.lab.fault(&Fault::Kill { host: name(host) })
    }

    fn pid(&self, host: usize) -> Result<u32, String> {
        self.lab.status()?.hosts[host].pid.ok_or_else(|| format!("the agent of {} has ended", name(host)))
    }

    fn tells_of_uplinks(&self) -> bool {
        true
    }

    fn observe(&mut self, open: bool) {
        if let Some((close, thread)) = self.observing.take() {
            // An error says that it has ended on its own, which it does not.
            let _ = close.send(());
            let _ = thread.join();
        }
        if open {
            let (close, closed) = oneshot::channel();
            let (apis, teller) = (self.apis.clone(), self.teller.clone());
            self.observing = Some((close, thread::spawn(move || observe(apis, teller, closed))));
        }
    }
}

impl Drop for Ours<'_> {
    fn drop(&mut self) {
        self.observe(false);
    }
}

fn observe(apis: Vec<String>, teller: Teller, closed: oneshot::Receiver<()>) {
    lab::block_on(async move {
        let mut streams = tokio::task::JoinSet::new();
        for (observer, api) in apis.into_iter().enumerate() {
            let (events, hosts) = ((api.clone(), teller.clone()), (api, teller.clone()));
            streams.spawn(async move {
                loop {
                    // Whatever ended it, it is opened again until this program has seen enough.
                    let _ = watch_events(observer, &events.0, &events.1).await;
                    tokio::time::sleep(PAUSE).await;
                }
            });
            streams.spawn(async move {
                loop {
                    hosts.1.tell(observer, What::Reset, "its stream is opened");
                    let opened = watch_hosts(observer, &hosts.0, &hosts.1).await;
                    hosts.1.tell(observer, What::Reset, &format!("its stream ended: {opened:?}"));
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        // Also ends when the sender is gone.
        let _ = closed.await;
    });
}

async fn watch_events(observer: usize, api: &str, teller: &Teller) -> Result<(), tonic::Status> {
    let request = v1::WatchEventsRequest { kind: "host-down".into(), ..v1::WatchEventsRequest::default() };
    let mut stream = EventsClient::new(lab::channel(api)).watch_events(request).await?.into_inner();
    while let Some(event) = stream.message().await? {
        if let Some(host) = number(&event.host) {
            let text =
                format!("{} {}, accused by {}: {}", event.host, event.kind, event.accusers.join(" "), event.text);
            teller.tell(observer, What::Failed(host), &text);
        }
    }
    Ok(())
}

/// Tells of changes only: a host is told of whenever anything of it changes.
async fn watch_hosts(observer: usize, api: &str, teller: &Teller) -> Result<(), tonic::Status> {
    let mut stream = v1::Host::open(lab::channel(api)).await?;
    let mut known = std::collections::BTreeMap::new();
    while let Some(message) = stream.message().await? {
        let (Kind::Present | Kind::Updated, Some(host)) = v1::Host::split(message) else { continue };
        let Some(subject) = number(&host.name) else { continue };
        let well = host.state() == State::Alive;
        let carries = host.uplinks.is_some_and(|uplinks| uplinks.a() == v1::uplink::State::Up);
        let before = known.insert(subject, (well, carries));
        if before.map(|before| before.0) != Some(well) {
            teller.tell(observer, What::Sees(subject, well), &reason(&host));
        }
        if before.map(|before| before.1) != Some(carries) {
            teller.tell(observer, What::UplinkA(subject, carries), "uplink a");
        }
    }
    Ok(())
}

/// Who accuses a host that is down, and why.
fn reason(host: &v1::Host) -> String {
    if host.state() != State::Down {
        return String::new();
    }
    let each = host.accusations.iter().map(|accusation| format!("{}: {}", accusation.accuser, accusation.evidence));
    each.collect::<Vec<_>>().join("; ")
}
