//! corosync as Debian ships it, on both uplinks by knet: how it is started beside others, and what it logs.
//!
//! It wants its files at fixed places: plugins below /usr, sockets and state below /run, /var/lib and /dev/shm. Each
//! process has a mount namespace of its own in which those places are its own, and /usr has the unpacked packages on
//! top. All that goes with the process.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use ringmesh_agentd::lab::HostStatus;

use crate::{logged::Dialect, program::name, watch::What};

const SCRIPT: &str = r#"set -e
if [ -n "$UNPACKED" ]; then mount -t overlay overlay -o "lowerdir=$UNPACKED/usr:/usr" /usr; fi
for place in /dev/shm /var/lib /run; do mount -t tmpfs -o mode=0755 tmpfs "$place"; done
mkdir /var/lib/corosync
printf %s "$KEY" > /run/authkey
printf %s "$CONFIG" > /run/corosync.conf
exec /usr/sbin/corosync "$@" 2>&1
"#;

/// corosync with its defaults, AES-256 and SHA-256.
#[derive(Clone)]
pub(crate) struct Corosync {
    /// Holds usr/sbin/corosync; `None` when it is installed.
    unpacked: Option<PathBuf>,
    config: String,
    key: String,
}

impl Corosync {
    /// Finds the program, below `unpacked` or installed, and returns it with its version.
    pub(crate) fn find(unpacked: &Path, hosts: usize) -> Result<(Self, String), String> {
        let program = unpacked.join("usr/sbin/corosync");
        let unpacked = match program.exists() {
            true => Some(unpacked.canonicalize().map_err(|error| format!("find {}: {error}", unpacked.display()))?),
            false if Path::new("/usr/sbin/corosync").exists() => None,
            false => return Err(format!("there is no {}; unpack Debian's package corosync there", program.display())),
        };
        let corosync = Self { unpacked, config: config(hosts), key: key()? };
        let mut command = corosync.alone(Command::new("unshare"));
        let output = command.arg("-v").stdout(Stdio::piped()).output();
        let output = output.map_err(|error| format!("run unshare: {error}; install the package util-linux"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.split_once("version '").and_then(|(_, rest)| rest.split_once('\''));
        version.map(|(version, _)| (corosync, version.to_owned())).ok_or_else(|| {
            let problem = String::from_utf8_lossy(&output.stderr);
            format!(
                "corosync does not run: {}",
                problem.lines().chain(text.lines()).last().unwrap_or("it says nothing")
            )
        })
    }

    /// corosync with places of its own; `unshare` is that command, with what leads to it.
    fn alone(&self, mut unshare: Command) -> Command {
        unshare
            .args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "corosync"])
            .env("UNPACKED", self.unpacked.as_deref().unwrap_or(Path::new("")))
            .env("CONFIG", &self.config)
            .env("KEY", &self.key)
            .stdin(Stdio::null());
        unshare
    }
}

impl Dialect for Corosync {
    const NAME: &'static str = "corosync";
    const TELLS_OF_UPLINKS: bool = true;

    fn command(&self, _index: usize, host: &HostStatus) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &host.netns, "unshare"]);
        let mut command = self.alone(command);
        command.args(["-f", "-c", "/run/corosync.conf"]).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    fn parse(line: &str) -> Vec<What> {
        if let Some((_, members)) = line.split_once(") was formed. Members") {
            return membership(members);
        }
        if line.contains("A processor failed, forming new configuration") {
            return vec![What::Forming];
        }
        link(line).into_iter().collect()
    }
}

/// Reads " joined: 1 2 left: 3".
fn membership(members: &str) -> Vec<What> {
    let mut what = vec![What::Formed];
    let mut joined = false;
    for word in members.split_ascii_whitespace() {
        match (word, word.parse::<usize>().ok().and_then(|id| id.checked_sub(1))) {
            ("joined:", _) => joined = true,
            ("left:", _) => joined = false,
            (_, Some(host)) if joined => what.push(What::Sees(host, true)),
            (_, Some(host)) => what.push(What::Failed(host)),
            (_, None) => {}
        }
    }
    what
}

/// Reads "host: 2 link: 0 is down"; link 0 is uplink A.
fn link(line: &str) -> Option<What> {
    let (host, state) = line.split_once(": host: ")?.1.split_once(" link: 0 is ")?;
    let host = host.parse::<usize>().ok()?.checked_sub(1)?;
    match state {
        "down" => Some(What::UplinkA(host, false)),
        "up" => Some(What::UplinkA(host, true)),
        _ => None,
    }
}

/// The scheduling of an ordinary process: real-time agents of 32 hosts on one machine would starve each other.
fn config(hosts: usize) -> String {
    let mut text = String::from(
        "totem {\n version: 2\n cluster_name: bench\n transport: knet\n keyfile: /run/authkey\n \
         crypto_cipher: aes256\n crypto_hash: sha256\n}\n\
         quorum {\n provider: corosync_votequorum\n}\n\
         system {\n sched_rr: no\n move_to_root_cgroup: no\n}\n\
         logging {\n to_stderr: yes\n to_syslog: no\n to_logfile: no\n timestamp: off\n}\n\
         nodelist {\n",
    );
    for id in 1..=hosts {
        // A String takes whatever is written.
        let _ = write!(
            text,
            " node {{\n  name: {}\n  nodeid: {id}\n  ring0_addr: 10.77.0.{id}\n  ring1_addr: 10.78.0.{id}\n }}\n",
            name(id - 1)
        );
    }
    text + "}\n"
}

/// 256 digits: a key has 128 to 512 bytes.
fn key() -> Result<String, String> {
    use std::io::Read as _;
    let mut bytes = [0; 128];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| format!("read /dev/urandom: {error}"))?;
    Ok(bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
}
