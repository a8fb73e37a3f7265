//! The daemon: reads what it needs, starts the hands and the host loop, and ends in order.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rand::{TryRng, rngs::SysRng};
use ringmesh_node::{Node, overlay::Wiring};
use ringmesh_proto::{
    member::Member,
    peer::{RepairState, ReplicaRecord},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::{
    alarm::AlarmClock,
    api::{self, Api, ApiError},
    carrier::{self, CARRIER_BOUND},
    clock::{self, Clock},
    config::{Config, ConfigError, ConfigFile, LogFormat, Mode},
    counters::Counters,
    disk::{self, DiskError},
    host_loop::{COMMAND_BOUND, Command, GRID, HostLoop, INBOUND_BOUND, Inputs, REPLY_BOUND},
    identity::{
        Identity, IdentityError, Keyring,
        admission::{Authority, AuthorityError},
        keyring::HostSeals,
    },
    keeper::Keeper,
    probe::{Prober, heartbeat, inside},
    quic::{Requests, STORE_STREAM_BOUND, Transport, TransportError},
    reach::{self, REACHED_BOUND, Reacher},
    repair::{self, Hands},
    runtime,
    store::{Holder, Holding},
};

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Of the operator: the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Of the operator: no or a bad identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Of the operator: the configuration names another host than the certificate.
    #[error(
        "{config}: host.name is \"{configured}\", but the certificate in {state_dir} is of \"{certified}\"; set the name back, or use another state_dir and join anew"
    )]
    Name {
        /// The file.
        config: PathBuf,
        /// Its host.name.
        configured: String,
        /// Its host.state_dir.
        state_dir: PathBuf,
        /// The name in the identity.
        certified: String,
    },
    /// The state of this host cannot be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Tokens or the CA's key.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The uplinks.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The API.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Of the operator: containers are to have a member inside, and there is no program for it.
    #[error(
        "cannot take the program {program} for containers with member = true; install ringmesh-member, or name it in probe.member_program"
    )]
    Member {
        /// Where it should be.
        program: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The level in `[log]` is none.
    #[error("log.level: \"{level}\" is no level; use error, warn, info, debug or trace, or MODULE=LEVEL")]
    LogLevel {
        /// As configured.
        level: String,
    },
    /// Us: a broken invariant, which the log names.
    #[error("the host loop broke, see the log above; please report it. Containers run on; start the agent again")]
    Broke,
    /// The platform gave no thread, socket, signal or randomness.
    #[error("the platform refused: {what}")]
    Platform {
        /// What was asked for.
        what: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}

/// Checks a configuration file and does nothing.
///
/// Returns what is no mistake and probably not meant.
pub fn check(config_path: &Path) -> Result<Vec<String>, ConfigError> {
    Config::load(config_path).map(|config| config.oddities())
}

/// Runs the daemon until SIGTERM or SIGINT, or until this host has left the cluster. Containers run on.
pub fn run(config_path: &Path) -> Result<(), AgentError> {
    let file = ConfigFile::read(config_path)?;
    let config = file.parse()?;
    start_log(&config)?;
    let identity = Identity::load(&config.host.state_dir)?;
    if identity.name != config.host.name {
        return Err(AgentError::Name {
            config: config_path.to_owned(),
            configured: config.host.name,
            state_dir: config.host.state_dir,
            certified: identity.name,
        });
    }
    raise_file_limit();
    // One thread for the mesh: the host loop takes a small part of it, and waking another for each packet would cost more
    // than the packet. The API, probes and runtimes have threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| AgentError::Platform { what: "an event loop", source })?;
    runtime.block_on(serve(config, file, identity))
}

async fn serve(mut config: Config, file: ConfigFile, identity: Identity) -> Result<(), AgentError> {
    let program =
        std::env::current_exe().map_err(|source| AgentError::Platform { what: "the path of this program", source })?;
    let clock = Clock::default();
    let counters = Arc::new(Counters::default());
    let keyring = Keyring::open(&identity, &config.host.state_dir, config.identity.certificate_lifetime)?;
    let authority = Arc::new(Mutex::new(None));
    if identity.is_authority() {
        let mut admits = Authority::open(&identity, &config.host.state_dir)?;
        admits.follow(&keyring);
        *authority.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(admits);
    }

    let (inbound_sender, inbound) = mpsc::channel(INBOUND_BOUND);
    let (reply_sender, replies) = mpsc::channel(REPLY_BOUND);
    let (command_sender, commands) = mpsc::channel(COMMAND_BOUND);
    let (reached_sender, reached) = mpsc::channel(REACHED_BOUND);
    let (heartbeat_sender, heartbeats) = mpsc::channel(heartbeat::HEARTBEAT_BOUND);
    let (inside_sender, insides) = mpsc::channel(inside::INSIDE_BOUND);
    let (carrier_sender, carriers) = mpsc::channel(CARRIER_BOUND);
    let (disk_sender, disk_receiver) = watch::channel(None);
    let (shard_sender, shards) = mpsc::channel(1);
    let (written_sender, written) = mpsc::channel(1);

    for oddity in config.oddities() {
        tracing::warn!("{oddity}");
    }
    let repairs = repair::read(&config.host.state_dir, &config)?;
    // As the containers are now, clones in the places of what they replaced.
    config.use_instances(&repairs.instances);
    let left = repair::left(&repairs);
    let node_config = node_config(&config, &identity, &counters, repairs)?;
    let mut node = Node::new(clock.now(), node_config, Box::new(HostSeals::new(&keyring)));
    node.handle_signed(clock.now(), None, keyring.records());
    // Who asks before the first turn of the loop is not told that there are no containers.
    let (view_sender, view) = watch::channel(Arc::new(node.poll_view(clock.now()).unwrap_or_default()));
    heartbeat::listen(&config.host.state_dir, &config.container_specs(), heartbeat_sender)
        .map_err(|source| AgentError::Platform { what: "sockets for heartbeats, in host.state_dir", source })?;
    let mut prober = Prober::spawn(&config.probe, program.clone(), reply_sender)
        .map_err(|source| AgentError::Platform { what: "a thread for probes", source })?;
    let member = config.probe.member_program(&program);
    let members = prober
        .keep_members(&config.host.state_dir, &member, &config.containers, inside_sender)
        .map_err(|source| AgentError::Member { program: member, source })?;
    // From here on the supervisor has them: of very many there is one copy.
    let containers = std::mem::take(&mut config.containers);
    let config = Arc::new(config);
    let (store, store_streams) = mpsc::channel(STORE_STREAM_BOUND);
    let requests = Requests { view: view.clone(), authority: Arc::clone(&authority), store };
    let alarms = AlarmClock::start().map_err(|source| AgentError::Platform { what: "timers", source })?;
    let transport = Transport::open(
        Arc::clone(&keyring),
        &alarms,
        config.addresses(),
        config.mesh.connection_cache,
        inbound_sender,
        requests,
        Arc::clone(&counters),
    )?;
    let keeper = Keeper::new(
        Arc::clone(&keyring),
        transport.clone(),
        view.clone(),
        Arc::clone(&authority),
        config.host.state_dir.clone(),
        command_sender.clone(),
    );
    carrier::watch(config.addresses(), carrier_sender, Arc::clone(&counters))
        .map_err(|source| AgentError::Platform { what: "news of the uplinks' interfaces (route netlink)", source })?;
    let (end, history_counters) = (command_sender.clone(), Arc::clone(&counters));
    let holding = Holding {
        cluster: identity.cluster,
        host: identity.host,
        name: identity.name.clone(),
        state_dir: config.host.state_dir.clone(),
        eligible: config.store.eligible,
        roles: config.store.roles(),
        quota_bytes: config.store.quota_bytes,
        retention: Some(config.store.retention),
    };
    let (holder, access, replica) = Holder::new(holding, transport.clone(), view.clone(), store_streams);
    tokio::spawn(tell_replica(replica, command_sender.clone()));
    let api = Api {
        view,
        transport: transport.clone(),
        commands: command_sender,
        authority,
        keyring: Arc::clone(&keyring),
        keeper: Arc::clone(&keeper),
        config: Arc::clone(&config),
        config_file: Arc::new(file),
        counters,
        started_at: clock::unix(),
        watches: Arc::default(),
        store: access,
    };
    // Whatever may refuse has been tried: only now others are told that this host is there, and containers start.
    let store = api::start(api, holder).await?;
    let instance = runtime::instance(&config.host.state_dir);
    let (handle, statuses) = runtime::spawn(&config.host.state_dir, containers, &instance, &program, &left);
    let state_dir = config.host.state_dir.clone();
    let trouble = disk::Trouble::default();
    let troubles = trouble.watch();
    let (hands, repairs) = Hands::new(handle, state_dir.clone(), trouble.clone());
    let writer = tokio::spawn(disk::write_latest(state_dir.clone(), disk_receiver, trouble.clone()));
    let history_writer = disk::write_histories(state_dir.clone(), shards, written_sender, history_counters, trouble);
    let history_writer = tokio::spawn(history_writer);
    reach::listen(config.addresses()).await;
    let reacher = Reacher::new(config.addresses(), reached_sender);
    let host_loop = HostLoop {
        node,
        alarms,
        clock,
        transport: transport.clone(),
        prober,
        members,
        reacher,
        hands,
        disk: disk_sender,
        histories: shard_sender,
        view: view_sender,
    };
    let keeper = tokio::spawn(keeper.run());
    let host_loop = tokio::spawn(host_loop.run(Inputs {
        inbound,
        replies,
        heartbeats,
        insides,
        reached,
        statuses,
        repairs,
        carriers,
        commands,
        written,
        trouble: troubles,
    }));
    tracing::info!(host = %identity.host, name = identity.name, cluster = %identity.cluster, "the agent runs");
    if config.uplink.b.is_none() {
        tracing::warn!("there is no uplink b: the loss of one cable cuts this host off");
    }

    let (why, mut node) = until_end(host_loop, &end).await?;
    tracing::info!(why, "the agent ends; its containers run on");
    keeper.abort();
    store.end().await;
    transport.close().await;
    // The loop is gone, and with it the last sender: what was sent last is written.
    if let Err(error) = writer.await {
        tracing::error!(%error, "the writer of this host's state ended");
    }
    // It is gone, too, before another one writes.
    let _ = history_writer.await;
    disk::write_at_end(state_dir, node.take_histories(clock.now())).await;
    let _ = std::fs::remove_file(&config.api.socket);
    Ok(())
}

/// Passes on what this host holds of the configuration, as long as the host loop is there.
async fn tell_replica(mut replica: watch::Receiver<Option<ReplicaRecord>>, commands: mpsc::Sender<Command>) {
    while replica.changed().await.is_ok() {
        let record = *replica.borrow_and_update();
        if commands.send(Command::Replica(record)).await.is_err() {
            return;
        }
    }
}

/// Waits for a signal or for the loop's own end. The loop is gone afterwards, and its machine is left.
async fn until_end(
    mut host_loop: tokio::task::JoinHandle<Node>,
    commands: &mpsc::Sender<Command>,
) -> Result<(&'static str, Node), AgentError> {
    let refused = |source| AgentError::Platform { what: "signals", source };
    let mut terminate = signal(SignalKind::terminate()).map_err(refused)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
    let why = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        ended = &mut host_loop => return ended.map(|node| ("left the cluster", node)).map_err(|_| AgentError::Broke),
    };
    // If it has ended meanwhile, it needs not be told.
    let _ = commands.send(Command::End).await;
    host_loop.await.map(|node| (why, node)).map_err(|_| AgentError::Broke)
}

fn node_config(
    config: &Config,
    identity: &Identity,
    counters: &Counters,
    repairs: RepairState,
) -> Result<ringmesh_node::Config, AgentError> {
    let state = disk::read(&config.host.state_dir)?;
    let seed = SysRng.try_next_u64().map_err(|_| AgentError::Platform {
        what: "randomness",
        source: std::io::Error::other("the platform's generator failed"),
    })?;
    Ok(ringmesh_node::Config {
        cluster: identity.cluster,
        me: Member { id: identity.host, generation: state.generation, addresses: config.addresses() },
        name: config.host.name.clone(),
        zone: config.host.zone.clone(),
        rack: config.host.rack.clone().unwrap_or_default(),
        chords: identity.chords,
        configured_chords: config.mesh.chords.map(|rule| rule.0),
        version: env!("CARGO_PKG_VERSION").into(),
        wiring: match config.mesh.mode {
            Mode::Switched => Wiring::Switched { seed: identity.ring_seed },
            Mode::Cabled => Wiring::Cabled,
        },
        position: config.mesh.position.unwrap_or(0),
        known: state.known,
        forget_after: config.mesh.forget_after,
        zones: state.zones,
        budgets: config.trunk.budgets(),
        containers: config.container_specs(),
        repair: config.repair_settings(),
        repairs,
        judgement: config.judgement.limits(),
        histories: disk::read_histories(&config.host.state_dir, counters),
        protection: config.mesh.protection(),
        tick: GRID,
        seed,
    })
}

/// A running container costs a descriptor, a probe under way another, and so does each client of the store.
pub(crate) fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files to its maximum");
    }
}

fn start_log(config: &Config) -> Result<(), AgentError> {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log.level)
        .map_err(|_| AgentError::LogLevel { level: config.log.level.clone() })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let result = match config.log.format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    // Only fails when a log is set up already, as in a test.
    let _ = result;
    Ok(())
}
