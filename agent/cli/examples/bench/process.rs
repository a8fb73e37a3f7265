//! What /proc says of processes: memory, processor time, threads, wake-ups, and the traffic of their network namespace.

use std::{
    fs, io,
    iter::Sum,
    ops::{Add, Sub},
    path::Path,
};

/// Memory of one process, in bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Resident, pages that are shared with others counted in full.
    pub(crate) rss: u64,
    /// Resident, each shared page divided by those who share it.
    pub(crate) pss: u64,
    /// Resident and no file's: heap, stacks, relocated constants.
    pub(crate) anonymous: u64,
}

/// Memory of a process now.
pub(crate) fn memory(pid: u32) -> io::Result<Memory> {
    let rollup = read(format!("/proc/{pid}/smaps_rollup"))?;
    let field = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other(format!("/proc/{pid}/smaps_rollup has no {name}")))
    };
    Ok(Memory { rss: field("Rss")?, pss: field("Pss")?, anonymous: field("Anonymous")? })
}

impl Add for Memory {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { rss: self.rss + other.rss, pss: self.pss + other.pss, anonymous: self.anonymous + other.anonymous }
    }
}

impl Sum for Memory {
    fn sum<I: Iterator<Item = Self>>(each: I) -> Self {
        each.fold(Self::default(), Self::add)
    }
}

/// Processor time of a process with all its threads since it started, in seconds; exact to a clock tick, 10 ms.
pub(crate) fn cpu_seconds(pid: u32) -> io::Result<f64> {
    let stat = read(format!("/proc/{pid}/stat"))?;
    // The name, in brackets, may hold anything. utime and stime are fields 14 and 15, the state is field 3.
    let fields = stat.rsplit_once(')').map(|(_, tail)| tail.split_ascii_whitespace().skip(11).take(2));
    let ticks = fields.map(|fields| fields.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>());
    let ticks = ticks.ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat cannot be read")))?;
    // USER_HZ, which is 100 on every platform that Debian builds Rust for.
    Ok(ticks as f64 / 100.0)
}

/// Times that the threads a process has now gave up the processor to wait, since they started.
pub(crate) fn waits(pid: u32) -> io::Result<u64> {
    let statuses = fs::read_dir(format!("/proc/{pid}/task"))?.flatten().map(|task| task.path().join("status"));
    // A thread that has ended meanwhile counts no more.
    let texts = statuses.filter_map(|status| fs::read_to_string(status).ok());
    Ok(texts.filter_map(|text| number_after(&text, "voluntary_ctxt_switches:")).sum())
}

/// Threads that a process has.
pub(crate) fn threads(pid: u32) -> io::Result<u64> {
    number_after(&read(format!("/proc/{pid}/status"))?, "Threads:").ok_or_else(|| io::Error::other("no Threads"))
}

/// The children of a process that run the same program: of an agent, its exec-runner, and not its containers.
pub(crate) fn kin(pid: u32) -> io::Result<Vec<u32>> {
    let program = fs::read_link(format!("/proc/{pid}/exe"))?;
    let mut kin = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process that has ended meanwhile is nobody's child.
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
        let same = || fs::read_link(entry.path().join("exe")).is_ok_and(|other| other == program);
        if number_after(&status, "PPid:") == Some(pid.into()) && same() {
            kin.push(child);
        }
    }
    Ok(kin)
}

/// What an interface has sent, frames with their Ethernet headers.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sent {
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
}

impl Sub for Sent {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { bytes: self.bytes - earlier.bytes, packets: self.packets - earlier.packets }
    }
}

/// What an interface has sent in the network namespace of a process.
pub(crate) fn sent(pid: u32, interface: &str) -> io::Result<Sent> {
    let text = read(format!("/proc/{pid}/net/dev"))?;
    let counters = text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
    // Eight counters of what was received come first.
    let fields = counters.map(|fields| fields.split_ascii_whitespace().skip(8).filter_map(|field| field.parse().ok()));
    let (bytes, packets) = fields.and_then(|mut fields| Some((fields.next()?, fields.next()?))).ok_or_else(|| {
        let problem = format!("the network namespace of process {pid} has no interface {interface}");
        io::Error::new(io::ErrorKind::NotFound, problem)
    })?;
    Ok(Sent { bytes, packets })
}

/// Processes that wanted a core at once, on average over the last minute; what is measured beside others is not to be
/// quoted.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().filter(|load| !load.is_empty()).unwrap_or("unknown").to_owned()
}

/// The machine in one line, for whoever reads the figures.
pub(crate) fn machine() -> String {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = text("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": of unknown model");
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = number_after(&text("/proc/meminfo"), "MemTotal:").unwrap_or(0) * 1024;
    format!(
        "{cores} cores {}, {:.1} GB of memory, Linux {}",
        model.trim_start_matches([':', '\t', ' ']),
        memory as f64 / 1e9,
        text("/proc/sys/kernel/osrelease").trim(),
    )
}

fn number_after(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_ascii_whitespace().next()?.parse().ok())
}

/// The error says which file.
fn read(path: impl AsRef<Path>) -> io::Result<String> {
    let path = path.as_ref();
    fs::read_to_string(path).map_err(|error| io::Error::new(error.kind(), format!("read {}: {error}", path.display())))
}
