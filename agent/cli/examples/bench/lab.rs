//! A lab that is taken down whatever happens: at the end, after a failure, on a signal.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use ringmesh_agentd::{
    config::{Mode, RepairMode},
    lab::{self, Fault, HostStatus, LabStatus, UpOptions},
};

/// The interfaces of a host's two uplinks.
pub(crate) const UPLINKS: [&str; 2] = ["up-a", "up-b"];

/// A lab that goes when this is dropped, by its name, which no other lab should have.
pub(crate) struct Lab(&'static str);

impl Lab {
    /// Takes down what an earlier run left, makes a lab, and says how long the second took.
    pub(crate) fn up(
        name: &'static str,
        binary: &Path,
        hosts: u16,
        containers: u16,
    ) -> Result<(Self, Duration), String> {
        lab::down(Some(name)).map_err(|error| error.to_string())?;
        let options = UpOptions {
            name: name.into(),
            hosts,
            zones: 1,
            repair: RepairMode::Off,
            containers,
            mode: Mode::Switched,
            dir: None,
            binary: binary.to_owned(),
        };
        // Before there is anything to take down: what `up` leaves after a failure goes with it.
        let guard = Self(name);
        let start = Instant::now();
        let up = lab::up(&options, &mut |step| eprintln!("{:>6.1} s  {step}", start.elapsed().as_secs_f32()));
        up.map_err(|error| error.to_string())?;
        Ok((guard, start.elapsed()))
    }

    pub(crate) fn status(&self) -> Result<LabStatus, String> {
        lab::status(Some(self.0)).map_err(|error| error.to_string())
    }

    pub(crate) fn fault(&self, fault: &Fault) -> Result<(), String> {
        lab::fault(Some(self.0), fault).map_err(|error| error.to_string())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = lab::down(Some(self.0)) {
            eprintln!("bench: the lab is not down: {error}");
        }
    }
}

/// The agents of hosts, all of which must run.
pub(crate) fn pids(hosts: &[HostStatus]) -> Result<Vec<u32>, String> {
    let pid = |host: &HostStatus| host.pid.ok_or_else(|| format!("the agent of {} has ended", host.name));
    hosts.iter().map(pid).collect()
}

/// The program `ringmesh` in the directory above that of this example.
pub(crate) fn beside() -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.parent()?.parent()?.join("ringmesh"))
}

/// Takes the lab of this name down, with all that runs in its namespaces, before a signal ends this program. `before`
/// keeps others from starting more meanwhile.
pub(crate) fn clear_up_on_signals(name: &'static str, before: fn()) -> Result<(), String> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("start a runtime: {error}"))?;
    let signals = runtime.block_on(async {
        let of = |kind| signal(kind).map_err(|error| format!("listen to signals: {error}"));
        Ok::<_, String>((of(SignalKind::interrupt())?, of(SignalKind::terminate())?, of(SignalKind::hangup())?))
    });
    let (mut interrupt, mut terminate, mut hangup) = signals?;
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        eprintln!("bench: ended by a signal; takes the lab down");
        before();
        drop(Lab(name));
        std::process::exit(130);
    });
    Ok(())
}
