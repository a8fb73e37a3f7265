//! From settings to a running member, and its end in order.

use std::{
    fs::OpenOptions,
    io::{self, IsTerminal},
    net::TcpListener as StdListener,
    thread,
    time::Duration,
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
    etcd::MAX_REQUEST_BYTES,
    faces::{Faces, MAX_CALLS},
    files::Files,
    hand,
    member::{Ended, Inputs, Member, Others, Parts, applied},
    peer::{Ear, INBOUND_BOUND, Listener, Peers, hello},
    request::{Handle, REQUEST_BOUND},
    road::Road,
    settings::Settings,
    transfer::Receiver,
};
use crate::{agent::raise_file_limit, clock::Clock, port::Port};

/// Between two signs of life of a leader on a host, in place of the 100 ms of a standalone one: each is a packet to every
/// replica, from processes that are to idle. Four of them must be lost before another one wants to lead.
const MESH_HEARTBEAT: Duration = Duration::from_millis(250);

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
    let addresses = settings.listen_client.join(", ");
    let (hello, ids): (_, Vec<u64>) = (hello(&settings), settings.members.iter().map(|member| member.id).collect());
    let others = Others::Named(settings.members.clone());
    let begin =
        Begin { log: Log::Founds(Conf::of_voters(ids.iter().copied())), settings, directory, road: Road::Tcp, others };
    let Running { handle, ear, mut ended } = start_member(begin)?;
    let listener = Listener::new(ear, hello, ids);
    for member in members {
        tokio::spawn(listener.clone().listen(TcpListener::from_std(member).map_err(StoreError::Thread)?));
    }
    let port = Port::new(Faces::new(&handle, false), MAX_CALLS);
    for client in clients {
        tokio::spawn(port.clone().serve_plain(TcpListener::from_std(client).map_err(StoreError::Thread)?));
    }
    tracing::info!(addresses, "serves clients");

    let mut terminate = signal(SignalKind::terminate()).map_err(StoreError::Thread)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StoreError::Thread)?;
    let why = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        end = &mut ended => return end.unwrap_or(Err(BROKE)).map(drop),
    };
    tracing::info!(why, "the store ends");
    handle.end().await;
    ended.await.unwrap_or(Err(BROKE)).map(drop)
}

pub(super) const BROKE: StoreError = StoreError::Broke("the store's loop broke, see the log above");

/// What a member begins with.
pub(super) struct Begin {
    /// Its own.
    pub(super) settings: Settings,
    /// Its own.
    pub(super) directory: Directory,
    /// What it is to find there.
    pub(super) log: Log,
    /// To the others.
    pub(super) road: Road,
    /// Who they are.
    pub(super) others: Others,
}

/// The log that a member finds, or not.
pub(super) enum Log {
    /// If there is none it founds, with these members.
    Founds(Conf),
    /// There is none: it was invited, and gets all from others.
    Joins,
    /// There must be one.
    Kept,
}

/// A member that runs, on a thread of its own.
pub(super) struct Running {
    /// Asks it.
    pub(super) handle: Handle,
    /// Lets it hear the others.
    pub(super) ear: Ear,
    /// Its end.
    pub(super) ended: oneshot::Receiver<Result<Ended, StoreError>>,
}

/// The member runs on a thread of its own, so that a large answer delays no heartbeat.
pub(super) fn start_member(begin: Begin) -> Result<Running, StoreError> {
    let Begin { settings, directory, log, road, others } = begin;
    let clock = Clock::default();
    let kv_settings = kv::Settings {
        quota_bytes: settings.quota_bytes,
        max_request_bytes: MAX_REQUEST_BYTES,
        // Who chooses the ranges of watches is not to know it.
        seed: random()?,
        ..kv::Settings::default()
    };
    let kv = open_keys(&directory, kv_settings.clone())?;
    let (wal, recovered) = open_log(&settings, &directory, &kv, log)?;
    directory.settle(&settings)?;
    let seed = random()?;
    let mut pace = consensus::Settings::new(settings.id);
    if matches!(others, Others::Mesh(_)) {
        pace.heartbeat = MESH_HEARTBEAT;
    }
    let consensus = Consensus::new(pace, recovered, seed, clock.instant())?;

    let (requests_sender, requests) = mpsc::channel(REQUEST_BOUND);
    let (led_sender, led) = watch::channel(false);
    let (jobs, jobs_receiver) = mpsc::channel(hand::JOB_BOUND);
    let (written_sender, written) = mpsc::channel(hand::JOB_BOUND);
    let (checkpointed_sender, checkpointed) = mpsc::channel(1);
    let (inbound_sender, inbound) = mpsc::channel(INBOUND_BOUND);
    let hand = hand::start(wal, jobs_receiver, written_sender).map_err(StoreError::Thread)?;
    let first_id = random()?;
    let (end, ended) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StoreError::Thread)?;
    let receiver = Receiver::new(directory.new_keys(), kv_settings, inbound_sender.clone());
    let ear = Ear::new(inbound_sender.clone(), receiver);
    let work = async move {
        let peers = Peers::new(road, hello(&settings), inbound_sender);
        let parts = Parts {
            settings,
            directory,
            kv,
            consensus,
            clock,
            peers,
            others,
            jobs,
            checkpointed: checkpointed_sender,
            led: led_sender,
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
    Ok(Running { handle: Handle::new(requests_sender, led), ear, ended })
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

fn open_log(
    settings: &Settings,
    directory: &Directory,
    kv: &Kv,
    log: Log,
) -> Result<(Wal<Files>, Recovered), StoreError> {
    let identity = wal::Identity { cluster: settings.cluster_id, member: settings.id };
    let files = Files::new(directory.log());
    let applied = applied(&kv.applied());
    let (mut wal, mut recovery) = Wal::open(files, identity, wal::Settings::default(), random()?)?;
    // The power may have been lost after another member's keys were put in place, and before the log was told.
    wal.align(&mut recovery, applied.position).map_err(hand::HandError::from)?;
    let Recovery { is_new, mut hard, base, mut entries } = recovery;
    match log {
        Log::Founds(conf) if is_new && applied.position.index == 0 => {
            // All members begin with the same entry, which says who they are.
            let first = consensus::origin(&conf);
            hard = HardState { term: 1, vote: 0, commit: 1 };
            entries = vec![first];
            let persist = Persist { number: 0, snapshot: None, entries: entries.clone(), hard: Some(hard) };
            wal.append(&[persist]).map_err(hand::HandError::from)?;
        }
        Log::Kept if is_new => return Err(StoreError::LostLog(directory.log())),
        Log::Founds(_) | Log::Joins | Log::Kept => {}
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
