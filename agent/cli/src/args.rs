//! The command line as a whole: the options that every command has, and the nouns.
//!
//! What belongs to one noun stands in `commands/NOUN.rs`. Nouns that the contract names but that nothing serves yet are
//! not here, so that help shows only what works.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::{commands, error::CliError, output::Format};

/// Watches hosts and containers in a dual ring.
#[derive(Debug, Parser)]
#[command(
    name = "ringmesh",
    version,
    max_term_width = 110,
    // One help, compact: -h and --help say the same.
    disable_help_flag = true,
    disable_help_subcommand = true,
    bin_name = "ringmesh",
    after_help = "\
Every host runs `ringmesh agent`. Ask any of them and you get the answer of the whole cluster: by default the agent of \
this host, over its socket; without one, the first host of the newest lab. Over TCP both sides show certificates: \
--ca, --cert and --key are ca.pem, operator.pem and operator.key in /var/lib/ringmesh/identity if they are not given.

`ringmesh NOUN VERB --help` says more of each command.

Examples:
  ringmesh lab up                      five hosts with four containers each, on this machine
  ringmesh host list                   who is alive
  ringmesh host why h3                 who accuses h3, and on what evidence
  ringmesh container list -l tier=web  containers with a label
  ringmesh service list --watch        verdicts, as they change
  ringmesh --host h2 ring show         both rings as h2 of the lab sees them
  ringmesh event list -o json          for scripts

Exit status:
  0 done, 1 failed, 2 usage, 3 not reachable, 4 not found, 5 refused or conflict, 6 timed out"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
// The ids differ from the option names where a command has an argument of that name.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Agent to ask: unix:/PATH, /PATH, ADDRESS:PORT, or a host of the newest lab
    #[arg(
        id = "global-host",
        long = "host",
        value_name = "ADDR",
        env = "RINGMESH_HOST",
        global = true,
        hide_env_values = true
    )]
    pub(crate) address: Option<String>,

    /// How to print: table, wide, json or yaml.
    #[arg(
        id = "global-output",
        short = 'o',
        long = "output",
        value_name = "FORMAT",
        global = true,
        default_value = "table",
        hide_possible_values = true
    )]
    pub(crate) output: Format,

    /// No colours; so does a non-empty NO_COLOR.
    #[arg(id = "global-no-color", long = "no-color", global = true)]
    pub(crate) no_color: bool,

    /// How long to wait for an answer.
    #[arg(
        id = "global-timeout",
        long = "timeout",
        value_name = "TIME",
        global = true,
        default_value = "30s",
        value_parser = duration
    )]
    pub(crate) timeout: Duration,

    /// Certificate of the cluster's CA, for TCP.
    #[arg(
        id = "global-ca",
        long = "ca",
        value_name = "FILE",
        env = "RINGMESH_CA",
        global = true,
        hide_env_values = true
    )]
    pub(crate) ca: Option<PathBuf>,

    /// Our certificate, for TCP.
    #[arg(
        id = "global-cert",
        long = "cert",
        value_name = "FILE",
        env = "RINGMESH_CERT",
        global = true,
        hide_env_values = true
    )]
    pub(crate) cert: Option<PathBuf>,

    /// Our certificate's key, for TCP.
    #[arg(
        id = "global-key",
        long = "key",
        value_name = "FILE",
        env = "RINGMESH_KEY",
        global = true,
        hide_env_values = true
    )]
    pub(crate) key: Option<PathBuf>,

    /// Print help.
    #[arg(short, long, action = clap::ArgAction::HelpShort, global = true)]
    #[allow(dead_code)] // clap acts on it.
    help: Option<bool>,
}

/// The nouns and the few verbs that need none.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Agent(commands::agent::AgentArgs),
    Init(commands::init::InitArgs),
    Join(commands::join::JoinArgs),
    /// Tokens with which hosts join.
    #[command(subcommand)]
    Token(commands::token::TokenCommand),
    Leave(commands::leave::LeaveArgs),
    /// The agent's certificate.
    #[command(subcommand)]
    Cert(commands::cert::CertCommand),
    /// The cluster's CA: replace it, or give its key to another host.
    #[command(subcommand)]
    Ca(commands::ca::CaCommand),
    /// The hosts of the cluster.
    #[command(subcommand)]
    Host(commands::host::HostCommand),
    /// The zones of the cluster, each a pool of hosts.
    #[command(subcommand)]
    Zone(commands::zone::ZoneCommand),
    /// The two rings.
    #[command(subcommand)]
    Ring(commands::ring::RingCommand),
    /// The links of the rings, and the chords.
    #[command(subcommand)]
    Link(commands::link::LinkCommand),
    /// The containers on all hosts.
    #[command(subcommand)]
    Container(commands::container::ContainerCommand),
    /// The cells in which containers watch each other.
    #[command(subcommand)]
    Cell(commands::cell::CellCommand),
    /// The services in the containers, and their verdicts.
    #[command(subcommand)]
    Service(commands::service::ServiceCommand),
    /// What is and was done to containers and hosts.
    #[command(subcommand)]
    Operation(commands::operation::OperationCommand),
    Disarm(commands::arming::DisarmArgs),
    Arm(commands::arming::ArmArgs),
    /// What happened.
    #[command(subcommand)]
    Event(commands::event::EventCommand),
    /// A whole cluster on one machine, in network namespaces.
    #[command(subcommand)]
    Lab(commands::lab::LabCommand),
    /// The replicated configuration store, with etcd's API.
    #[command(subcommand)]
    Store(commands::store::StoreCommand),
    /// The configuration that an agent runs.
    #[command(subcommand)]
    Config(commands::config::ConfigCommand),
    /// Versions of this program and of the agent.
    Version,
    Completion(commands::completion::CompletionArgs),
}

/// `--watch`, of the lists.
#[derive(Args, Debug)]
pub(crate) struct Watch {
    /// Go on and show what changes, until ^C.
    #[arg(short, long)]
    pub(crate) watch: bool,
}

/// `--zone`, of the lists.
#[derive(Args, Debug)]
pub(crate) struct InZone {
    /// Only those of this zone [default: of all].
    #[arg(long, value_name = "ZONE", conflicts_with = "watch")]
    zone: Option<String>,
}

impl InZone {
    pub(crate) fn name(self) -> String {
        self.zone.unwrap_or_default()
    }
}

/// `-l`, of what has labels.
#[derive(Args, Debug)]
pub(crate) struct Selector {
    /// Only those with this label; all of them, if given more than once.
    #[arg(short = 'l', long = "selector", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
}

impl Selector {
    pub(crate) fn labels(self) -> std::collections::BTreeMap<String, String> {
        self.labels.into_iter().collect()
    }
}

/// `--verdict`, of what is judged.
#[derive(Args, Debug)]
pub(crate) struct Verdicts {
    /// Only those with this verdict: passing, warning, critical or unknown; any of them, if given more than once.
    #[arg(long = "verdict", value_name = "VERDICT", value_parser = verdict)]
    verdicts: Vec<i32>,
}

impl Verdicts {
    pub(crate) fn numbers(self) -> Vec<i32> {
        self.verdicts
    }
}

fn verdict(text: &str) -> Result<i32, &'static str> {
    let found = ringmesh_proto::v1::verdict::Value::from_str_name(text);
    found.map(i32::from).ok_or("expected passing, warning, critical or unknown")
}

fn label(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("expected KEY=VALUE, such as tier=web"),
    }
}

/// Reads "90s", "5m", "1h 30m", "90d".
pub(crate) fn duration(text: &str) -> Result<Duration, &'static str> {
    text.parse::<jiff::Span>()
        .and_then(|span| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()))
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| !duration.is_zero())
        .ok_or("expected a time, such as 30s or 5m or 1h")
}

/// For a request.
pub(crate) fn proto_duration(duration: Duration) -> Result<prost_types::Duration, CliError> {
    prost_types::Duration::try_from(duration).map_err(|_| CliError::Usage("that time is too long".into()))
}

#[cfg(test)]
impl Global {
    pub(crate) fn for_tests() -> Self {
        Self {
            address: None,
            output: Format::Table,
            no_color: true,
            timeout: Duration::from_secs(1),
            ca: None,
            cert: None,
            key: None,
            help: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_explains_itself_and_none_is_from_the_future() {
        let mut commands = vec![Cli::command()];
        while let Some(command) = commands.pop() {
            let name = command.get_name().to_owned();
            assert!(command.get_about().is_some(), "{name} has no help");
            assert!(command.get_subcommands().all(|c| {
                !["probe", "apply", "get", "delete", "vrf", "route", "evpn", "bgp"].contains(&c.get_name())
            }));
            for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
                assert!(argument.get_help().is_some(), "{name} {} has no help", argument.get_id());
            }
            commands.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn durations_and_labels() {
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("2d"), Ok(Duration::from_secs(2 * 86_400)));
        for bad in ["", "5", "-1s", "0s", "h", "1 fortnight"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(label("=x").is_err() && label("x").is_err());
    }
}
