//! Hosts on loopback, each with its own directory, and runs of the binary that must fail.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

/// Longer than anything here takes on a machine that is busy; a test that waits so long has failed.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A user who owns nothing.
pub(crate) const NOBODY: u32 = 65_534;

/// The binary, told nothing by the environment of the test.
pub(crate) fn ringmesh<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Command {
    at(Path::new(env!("CARGO_BIN_EXE_ringmesh")), arguments)
}

/// A copy of it somewhere else.
pub(crate) fn at<S: AsRef<std::ffi::OsStr>>(program: &Path, arguments: &[S]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["RINGMESH_HOST", "RINGMESH_CA", "RINGMESH_CERT", "RINGMESH_KEY", "NO_COLOR", "RUST_LOG"] {
        command.env_remove(name);
    }
    command
}

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs to the end. A run without end is ended, and fails the test.
pub(crate) fn finish(mut command: Command) -> Ran {
    let child = command.spawn().expect("the binary starts");
    let pid = Pid::from_raw(child.id().try_into().expect("a pid"));
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = ended.recv_timeout(LONG) else {
        let _ = kill(pid, Signal::SIGKILL);
        panic!("{command:?} does not end");
    };
    let output = output.expect("it can be waited for");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// It must say exactly one line that begins with "error:", holds all of `words`, and no cause twice.
pub(crate) fn expect_refused(command: Command, status: i32, words: &[&str]) -> String {
    let ran = finish(command);
    assert_eq!(ran.code, Some(status), "{ran:?}");
    assert_eq!(ran.out, "", "{ran:?}");
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    assert!(ran.err.starts_with("error: ") && ran.err.ends_with('\n'), "{}", ran.err);
    for word in words {
        assert!(ran.err.contains(word), "no \"{word}\" in: {}", ran.err);
    }
    assert!(ran.err.matches("os error").count() <= 1, "{}", ran.err);
    ran.err
}

pub(crate) fn expect_good(command: Command) -> Ran {
    let ran = finish(command);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran
}

/// A port of UDP that nobody has at this moment.
pub(crate) fn free_udp(last: u8) -> SocketAddr {
    UdpSocket::bind(SocketAddr::from(([127, 0, 0, last], 0))).and_then(|socket| socket.local_addr()).expect("loopback")
}

fn free_tcp() -> SocketAddr {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|socket| socket.local_addr()).expect("loopback")
}

/// A host's directory: configuration, state and socket.
pub(crate) struct Site {
    directory: TempDir,
    pub(crate) name: &'static str,
    pub(crate) uplinks: [SocketAddr; 2],
    pub(crate) listen: SocketAddr,
}

impl Site {
    /// With a configuration and nothing else.
    pub(crate) fn new(name: &'static str) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let site = Self { directory, name, uplinks: [free_udp(1), free_udp(2)], listen: free_tcp() };
        site.configure(&site.text());
        site
    }

    /// That ran `ringmesh init`.
    pub(crate) fn init(name: &'static str) -> Self {
        let site = Self::new(name);
        let ran = expect_good(ringmesh(&["init", "--config", &site.config()]));
        assert!(ran.err.contains("made cluster"), "{ran:?}");
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn text_path(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub(crate) fn config(&self) -> String {
        self.text_path("agent.toml")
    }

    /// A configuration that is good.
    pub(crate) fn text(&self) -> String {
        let [a, b] = self.uplinks;
        format!(
            "[host]\nname = \"{}\"\nstate_dir = \"{}\"\n[uplink.a]\naddress = \"{}\"\nport = {}\n[uplink.b]\n\
             address = \"{}\"\nport = {}\n[api]\nsocket = \"{}\"\nlisten = [\"{}\"]\n",
            self.name,
            self.text_path("state"),
            a.ip(),
            a.port(),
            b.ip(),
            b.port(),
            self.text_path("run/agent.sock"),
            self.listen,
        )
    }

    pub(crate) fn configure(&self, text: &str) {
        fs::write(self.path("agent.toml"), text).expect("the test may write there");
    }

    /// The good configuration with one thing replaced, which must be in it.
    pub(crate) fn change(&self, from: &str, to: &str) {
        let text = self.text();
        assert!(text.contains(from), "{text}");
        self.configure(&text.replacen(from, to, 1));
    }

    pub(crate) fn agent(&self) -> Command {
        ringmesh(&["agent", "--config", &self.config()])
    }

    /// The agent must refuse to start.
    pub(crate) fn refuses(&self, words: &[&str]) -> String {
        expect_refused(self.agent(), 1, words)
    }

    /// Starts the agent and waits until it serves.
    pub(crate) fn start(&self) -> Agent {
        let mut child = self.agent().spawn().expect("the binary starts");
        let (sender, said) = mpsc::channel();
        let log = BufReader::new(child.stderr.take().expect("a pipe"));
        // To the end, so that it never blocks on a full pipe.
        std::thread::spawn(move || log.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let agent = Agent { child };
        let mut lines = Vec::new();
        loop {
            match said.recv_timeout(LONG) {
                Ok(line) if line.contains("the agent runs") => return agent,
                Ok(line) => lines.push(line),
                Err(error) => panic!("the agent does not serve ({error}): {lines:#?}"),
            }
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("run/agent.sock")
    }

    /// Of the identity.
    pub(crate) fn identity(&self, name: &str) -> PathBuf {
        self.path("state/identity").join(name)
    }

    /// Asks the agent over its socket, as people do.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Command {
        let mut command = ringmesh(arguments);
        command.env("RINGMESH_HOST", self.socket());
        command
    }

    /// Lets everybody enter the directory, as they may /etc.
    pub(crate) fn open_to_all(&self) {
        fs::set_permissions(self.directory.path(), fs::Permissions::from_mode(0o755)).expect("our own directory");
    }
}

/// An agent that runs, until it is dropped.
pub(crate) struct Agent {
    child: Child,
}

impl Agent {
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a pid"));
        let _ = kill(pid, Signal::SIGTERM);
        let (sender, ended) = mpsc::channel();
        let mut out = self.child.stdout.take();
        // Standard output closes when it ends.
        std::thread::spawn(move || {
            let _ = out.as_mut().map(|out| out.read_to_end(&mut Vec::new()));
            let _ = sender.send(());
        });
        if ended.recv_timeout(LONG).is_err() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}
