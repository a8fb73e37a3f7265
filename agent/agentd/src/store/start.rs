//! From settings to a running member, and its end in order.

use std::{
    fs::OpenOptions,
    io::{self, IsTerminal},
    net::TcpListener as StdListener,
    thread,
};

use rand::{TryRng, rngs::SysRng};
use redb::backends::FileBackend;
use ringmesh_store::{
    consensus::{self, Conf, Consensus, HardState, Persist, Recovered},
    kv::{self, Kv},
    wal::{self, Recovery, Wal},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
};

use super::{
    directory::Directory,
    error::StoreError,
    etcd::{Face, MAX_REQUEST_BYTES, Services},
    faces::{Faces, MAX_CALLS},
    files::Files,
    gateway::Gateway,
    hand,
    member::{Inputs, Member, Parts, applied},
    metrics::Metrics,
    peer::{INBOUND_BOUND, Peers},
    request::{Handle, REQUEST_BOUND, Request},
    settings::Settings,
    transfer::Receiver,
};
use crate::{agent::raise_file_limit, clock::Clock, port::Port};

/// Serves until SIGTERM or SIGINT.
pub fn serve(mut settings: Settings, log_level: &str) -> Result<(), StoreError> {
    start_log(log_level)?;
    raise_file_limit();
    let directory = Directory::open(&settings)?;
    settings.cluster_id = directory.cluster_id();
    let clients = listen("--listen-client-urls", &settings.listen_client)?;
    let members = listen("--listen-peer-urls", &settings.listen_peer)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StoreError::Thread)?;
    let served = runtime.block_on(run(settings, directory, clients, members));
    // Clients that still watch are not waited for.
    runtime.shutdown_background();
    served
}

async fn run(
    settings: Settings,
    directory: Directory,
    clients: Vec<StdListener>,
    members: Vec<StdListener>,
) -> Result<(), StoreError> {
    let (requests_sender, requests) = mpsc::channel(REQUEST_BOUND);
    let (led_sender, led) = watch::channel(false);
    let handle = Handle::new(requests_sender, led);
    let face = Face { handle: handle.clone(), members: settings.members.clone().into() };
    let addresses = settings.listen_client.join(", ");
    let mut ended = start_member(settings, directory, members, requests, led_sender)?;

    let services = Services::new(face);
    let gateway = Gateway::new(services.clone(), Metrics::new(handle.clone()));
    let port = Port::new(Faces::new(services, gateway), MAX_CALLS);
    for listener in clients {
        tokio::spawn(port.clone().serve_plain(TcpListener::from_std(listener).map_err(StoreError::Thread)?));
    }
    tracing::info!(addresses, "serves clients");

    let mut terminate = signal(SignalKind::terminate()).map_err(StoreError::Thread)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StoreError::Thread)?;
    let why = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        end = &mut ended => return end.unwrap_or(Err(BROKE)),
    };
    tracing::info!(why, "the store ends");
    handle.end().await;
    ended.await.unwrap_or(Err(BROKE))
}

const BROKE: StoreError = StoreError::Broke("the store's loop broke, see the log above");

/// The member runs on a thread of its own, so that a large answer delays no heartbeat. Its end comes over what is returned.
fn start_member(
    settings: Settings,
    directory: Directory,
    members: Vec<StdListener>,
    requests: mpsc::Receiver<Request>,
    led: watch::Sender<bool>,
) -> Result<oneshot::Receiver<Result<(), StoreError>>, StoreError> {
    let clock = Clock::default();
    let kv_settings = kv::Settings {
        quota_bytes: settings.quota_bytes,
        max_request_bytes: MAX_REQUEST_BYTES,
        // Who chooses the ranges of watches is not to know it.
        seed: random()?,
        ..kv::Settings::default()
    };
    let kv = open_keys(&directory, kv_settings.clone())?;
    let (wal, recovered) = open_log(&settings, &directory, &kv)?;
    let seed = random()?;
    let consensus = Consensus::new(consensus::Settings::new(settings.id), recovered, seed, clock.instant())?;

    let (jobs, jobs_receiver) = mpsc::channel(hand::JOB_BOUND);
    let (written_sender, written) = mpsc::channel(hand::JOB_BOUND);
    let (checkpointed_sender, checkpointed) = mpsc::channel(1);
    let (inbound_sender, inbound) = mpsc::channel(INBOUND_BOUND);
    let hand = hand::start(wal, jobs_receiver, written_sender).map_err(StoreError::Thread)?;
    let first_id = random()?;
    let (end, ended) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StoreError::Thread)?;
    let work = async move {
        let receiver = Receiver::new(directory.new_keys(), kv_settings, inbound_sender.clone());
        let members = members.into_iter().map(TcpListener::from_std).collect::<io::Result<_>>();
        let members = members.map_err(StoreError::Thread)?;
        let peers = Peers::start(&settings, members, inbound_sender, receiver);
        let parts = Parts {
            settings,
            directory,
            kv,
            consensus,
            clock,
            peers,
            jobs,
            checkpointed: checkpointed_sender,
            led,
            first_id,
        };
        Member::new(parts).run(Inputs { requests, inbound, written, checkpointed }).await
    };
    thread::Builder::new()
        .name("store".into())
        .spawn(move || {
            let result = runtime.block_on(work);
            // With the loop its side of the hand's channel is gone: it ends with what it was given.
            let _ = hand.join();
            let _ = end.send(result);
        })
        .map_err(StoreError::Thread)?;
    Ok(ended)
}

fn open_keys(directory: &Directory, settings: kv::Settings) -> Result<Kv, StoreError> {
    // What another member sent and nobody took.
    let _ = std::fs::remove_file(directory.new_keys());
    let path = directory.keys();
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
    let file = file.map_err(|source| StoreError::File { path, source })?;
    directory.sync().map_err(|source| StoreError::File { path: directory.keys(), source })?;
    Ok(Kv::open(FileBackend::new(file)?, settings)?)
}

fn open_log(settings: &Settings, directory: &Directory, kv: &Kv) -> Result<(Wal<Files>, Recovered), StoreError> {
    let identity = wal::Identity { cluster: settings.cluster_id, member: settings.id };
    let files = Files::new(directory.log());
    let applied = applied(&kv.applied());
    let (mut wal, mut recovery) = Wal::open(files, identity, wal::Settings::default(), random()?)?;
    // The power may have been lost after another member's keys were put in place, and before the log was told.
    wal.align(&mut recovery, applied.position).map_err(hand::HandError::from)?;
    let Recovery { is_new, mut hard, base, mut entries } = recovery;
    if is_new && applied.position.index == 0 {
        // All members begin with the same entry, which says who they are.
        let first = consensus::origin(&Conf::of_voters(settings.members.iter().map(|member| member.id)));
        hard = HardState { term: 1, vote: 0, commit: 1 };
        entries = vec![first];
        let persist = Persist { number: 0, snapshot: None, entries: entries.clone(), hard: Some(hard) };
        wal.append(&[persist]).map_err(hand::HandError::from)?;
    }
    Ok((wal, Recovered { hard, base, entries, applied }))
}

pub(super) fn random() -> Result<u64, StoreError> {
    let failed = |_| StoreError::Thread(io::Error::other("the platform's generator of randomness failed"));
    SysRng.try_next_u64().map_err(failed)
}

/// All of them, before anything is started that would have to be stopped again.
fn listen(option: &'static str, addresses: &[String]) -> Result<Vec<StdListener>, StoreError> {
    let listen = |address: &String| {
        let listener = StdListener::bind(address.as_str()).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        listener.map_err(|source| StoreError::Listen { option, address: address.clone(), source })
    };
    addresses.iter().map(listen).collect()
}

fn start_log(level: &str) -> Result<(), StoreError> {
    let filter = tracing_subscriber::EnvFilter::try_new(level).map_err(|_| StoreError::LogLevel(level.to_owned()))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // Only fails when a log is set up already, as in a test.
    let _ = log.with_ansi(io::stderr().is_terminal()).try_init();
    Ok(())
}
