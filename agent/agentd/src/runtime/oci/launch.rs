//! From a bundle to a first process that waits, and from there to a container that runs.
//!
//! Between the two the process's network namespace exists and nothing runs in it: the time to put an interface there.

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Take},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::{
    config::OciRuntime,
    runtime::{
        driver::{DriverError, one_line},
        oci::{
            control::last_message,
            layout::{Layout, Record, runtime_name},
        },
        process::{ProcessId, boot_id, unix_now},
        shim,
    },
};

/// The most that a shim says in its life.
const MAX_ANSWERS: u64 = 4096;

/// A container that is made and waits to be started. Dropped, it does not outlive its shim.
pub(super) struct Launch<'a> {
    layout: &'a Layout,
    name: &'a str,
    addresses: &'a [String],
    pub(super) pid: u32,
    kind: Kind,
}

enum Kind {
    Shim { child: Box<Child>, orders: ChildStdin, answers: BufReader<Take<ChildStdout>> },
    Program(OciRuntime),
}

impl<'a> Launch<'a> {
    /// Makes the container from its bundle; `addresses` are for its record.
    pub(super) async fn create(
        layout: &'a Layout,
        name: &'a str,
        runtime: OciRuntime,
        shim_path: &Path,
        addresses: &'a [String],
    ) -> Result<Self, DriverError> {
        let root = layout.runtime_root(runtime);
        fs::create_dir_all(&root).map_err(DriverError::io("make directory", &root))?;
        let log = open_log(&layout.log(name))?;
        match runtime {
            OciRuntime::Libcontainer => Self::by_shim(layout, name, shim_path, addresses, log).await,
            OciRuntime::Crun | OciRuntime::Runc => Self::by_program(layout, name, runtime, addresses, log).await,
        }
    }

    /// Starts the first process and writes the record.
    pub(super) async fn start(self) -> Result<(), DriverError> {
        match self.kind {
            Kind::Shim { mut child, mut orders, mut answers } => {
                orders.write_all(shim::START.as_bytes()).await.map_err(DriverError::io("write to", "the shim"))?;
                let answer = next_answer(&mut answers).await;
                // It ends at once; without this it would stay a zombie for a moment.
                let status = child.wait().await.map_err(DriverError::io("wait for", "the shim"))?;
                answer.and_then(|answer| match answer.as_str() {
                    shim::STARTED => Ok(()),
                    _ => Err(protocol(&format!("{answer} ({status})"))),
                })
            }
            Kind::Program(runtime) => {
                let program = runtime_name(runtime);
                let output = Command::new(program)
                    .arg("--root")
                    .arg(self.layout.runtime_root(runtime))
                    .args(["start", self.name])
                    .stdin(Stdio::null())
                    .output()
                    .await
                    .map_err(|source| DriverError::Program { program: program.into(), source })?;
                if !output.status.success() {
                    let message = last_message(&String::from_utf8_lossy(&output.stderr));
                    let message = message.unwrap_or_else(|| output.status.to_string());
                    return Err(DriverError::Runtime { runtime: program, message });
                }
                let process = ProcessId::of(self.pid);
                let record = new_record(runtime, self.pid, process, self.addresses.to_vec());
                self.layout.save_record(self.name, &record)
            }
        }
    }

    async fn by_shim(
        layout: &'a Layout,
        name: &'a str,
        shim_path: &Path,
        addresses: &'a [String],
        log: File,
    ) -> Result<Self, DriverError> {
        let mut child = Command::new(shim_path)
            .args([shim::SUBCOMMAND, shim::RUN])
            .arg(layout.state_dir())
            .args([&layout.instance, name])
            .args(addresses)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|source| DriverError::Program { program: shim_path.into(), source })?;
        let orders = child.stdin.take().expect("it was asked for");
        let stdout = child.stdout.take().expect("it was asked for");
        let mut answers = BufReader::new(stdout.take(MAX_ANSWERS));
        let answer = next_answer(&mut answers).await?;
        let pid = answer.strip_prefix(shim::CREATED).and_then(|pid| pid.trim().parse().ok());
        let pid = pid.ok_or_else(|| protocol(&answer))?;
        Ok(Self { layout, name, addresses, pid, kind: Kind::Shim { child: Box::new(child), orders, answers } })
    }

    async fn by_program(
        layout: &'a Layout,
        name: &'a str,
        runtime: OciRuntime,
        addresses: &'a [String],
        log: File,
    ) -> Result<Self, DriverError> {
        let program = runtime_name(runtime);
        let bundle = layout.bundle(name);
        let (pid_file, runtime_log) = (bundle.join("pid"), bundle.join("runtime.log"));
        // Of an earlier try; that there is none is no error.
        let _ = fs::remove_file(&runtime_log);
        let errors = log.try_clone().map_err(DriverError::io("open", layout.log(name)))?;
        let status = Command::new(program)
            .arg("--root")
            .arg(layout.runtime_root(runtime))
            .arg("--log")
            .arg(&runtime_log)
            .args(["--log-format", "json", "create", "--bundle"])
            .arg(&bundle)
            .arg("--pid-file")
            .arg(&pid_file)
            .arg(name)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .status()
            .await
            .map_err(|source| DriverError::Program { program: program.into(), source })?;
        if !status.success() {
            let message = fs::read_to_string(&runtime_log).ok().and_then(|text| last_message(&text));
            let message = message.unwrap_or_else(|| format!("{status}; see {}", layout.log(name).display()));
            return Err(DriverError::Runtime { runtime: program, message });
        }
        let pid = fs::read_to_string(&pid_file).map_err(DriverError::io("read", &pid_file))?;
        let message = || format!("wrote no pid but \"{}\"", one_line(&pid));
        let parsed = pid.trim().parse();
        let pid = parsed.map_err(|_| DriverError::Runtime { runtime: program, message: message() })?;
        Ok(Self { layout, name, addresses, pid, kind: Kind::Program(runtime) })
    }
}

/// What is kept of a container that was just started. If its process has ended already, the record says so.
pub(in crate::runtime) fn new_record(
    runtime: OciRuntime,
    pid: u32,
    process: Option<ProcessId>,
    addresses: Vec<String>,
) -> Record {
    Record {
        runtime,
        pid,
        // No process starts together with the host's first one.
        start_ticks: process.map_or(0, |process| process.start_ticks),
        boot_id: boot_id().to_owned(),
        started_at: unix_now().0,
        addresses,
    }
}

fn open_log(path: &PathBuf) -> Result<File, DriverError> {
    OpenOptions::new().create(true).append(true).open(path).map_err(DriverError::io("open", path))
}

/// The next line of a shim; its errors are ours.
async fn next_answer(answers: &mut BufReader<Take<ChildStdout>>) -> Result<String, DriverError> {
    let mut line = String::new();
    answers.read_line(&mut line).await.map_err(DriverError::io("read from", "the shim"))?;
    let line = line.trim_end().to_owned();
    match line.strip_prefix(shim::ERROR) {
        Some(message) => Err(DriverError::Runtime { runtime: "libcontainer", message: one_line(message) }),
        None => Ok(line),
    }
}

fn protocol(answer: &str) -> DriverError {
    let message = match answer {
        "" => "the shim ended without a word; the container's log may say why".into(),
        answer => format!("unexpected answer of the shim: {}", one_line(answer)),
    };
    DriverError::Runtime { runtime: "libcontainer", message }
}
