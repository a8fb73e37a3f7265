//! The driver `oci`: containers from a root file system, made by libcontainer in a shim, or by crun or runc.

mod bundle;
pub(super) mod control;
pub(super) mod launch;
pub(super) mod layout;

use std::{fs, io::Write, path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::Mutex;

use self::{launch::Launch, layout::Layout};
use super::{
    driver::{Answer, Capabilities, Driver, DriverError, Observed},
    network,
};
use crate::config::{Container, Oci};

/// A start that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A log that has grown beyond this, in bytes, becomes `log.1`, replacing the one before.
const MAX_LOG: u64 = 1 << 20;

/// Containers that the agent starts.
pub struct OciDriver {
    layout: Arc<Layout>,
    shim_path: PathBuf,
    /// Held while a bridge is made: several containers share it.
    bridges: Mutex<()>,
}

impl OciDriver {
    /// Keeps its files below `state_dir`; `instance` tells the agents of one machine apart; `shim_path` is the program
    /// `ringmesh`.
    pub fn new(state_dir: &std::path::Path, instance: &str, shim_path: PathBuf) -> Self {
        Self { layout: Arc::new(Layout::new(state_dir, instance)), shim_path, bridges: Mutex::new(()) }
    }

    async fn make(&self, container: &Container, oci: &Oci) -> Result<(), DriverError> {
        let addresses: Vec<String> = container.network.iter().map(|network| network.address.clone()).collect();
        let launch = Launch::create(&self.layout, &container.name, oci.runtime, &self.shim_path, &addresses).await?;
        if let Some(network) = &container.network {
            let instance = &self.layout.instance;
            network::attach(instance, &container.name, launch.pid, network, &self.bridges).await?;
        }
        launch.start().await
    }

    /// Runs what blocks elsewhere.
    async fn blocking<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(&Layout, &str) -> Result<T, DriverError> + Send + 'static,
    ) -> Result<T, DriverError> {
        let (layout, name) = (self.layout.clone(), name.to_owned());
        let work = tokio::task::spawn_blocking(move || work(&layout, &name));
        work.await.unwrap_or_else(|error| Err(DriverError::io("wait for", "a thread")(error.into())))
    }
}

impl Driver for OciDriver {
    fn name(&self) -> &'static str {
        "oci"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { start: true, stop: true, delete: true, pause: true, resume: true }
    }

    fn list(&self) -> Answer<'_, Vec<Observed>> {
        let observe = |layout: &Layout, _: &str| {
            let names = layout.names();
            Ok(names.iter().filter(|name| layout.is_known(name)).map(|name| layout.observe(name)).collect())
        };
        Box::pin(self.blocking("", observe))
    }

    fn inspect<'a>(&'a self, name: &'a str) -> Answer<'a, Observed> {
        // Two small reads, from a file in memory and from /proc: shorter than a change of thread.
        Box::pin(std::future::ready(Ok(self.layout.observe(name))))
    }

    fn start<'a>(&'a self, container: &'a Container) -> Answer<'a, ()> {
        Box::pin(async move {
            let name = &container.name;
            let Some(oci) = container.oci.clone() else {
                return Err(DriverError::State { name: name.clone(), state: "configured with oci" });
            };
            let (prepared, member) = (oci.clone(), container.member);
            self.blocking(name, move |layout, name| {
                if layout.is_known(name) {
                    control::delete(layout, name)?;
                }
                bundle::write(layout, name, &prepared, member)
            })
            .await?;
            let late = || DriverError::Runtime {
                runtime: layout::runtime_name(oci.runtime),
                message: format!("has not started the container within {} s", PATIENCE.as_secs()),
            };
            let made = tokio::time::timeout(PATIENCE, self.make(container, &oci)).await;
            let result = made.unwrap_or_else(|_| Err(late()));
            if result.is_err()
                && let Err(error) = self.delete(name).await
            {
                tracing::warn!(container = name, error = error.one_line(), "cannot clean up after a failed start");
            }
            result
        })
    }

    fn stop<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(self.blocking(name, control::stop))
    }

    fn delete<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.blocking(name, control::delete).await?;
            network::remove(&[network::interface_name(&self.layout.instance, name)]).await
        })
    }

    fn pause<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(self.blocking(name, |layout, name| control::set_paused(layout, name, true)))
    }

    fn resume<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(self.blocking(name, |layout, name| control::set_paused(layout, name, false)))
    }

    fn trim_logs(&self) -> Answer<'_, ()> {
        let trim =
            |layout: &Layout, _: &str| layout.names().iter().try_for_each(|name| trim_log(layout, name, MAX_LOG));
        Box::pin(self.blocking("", trim))
    }
}

/// Copies a large log away and empties it: its writers append, and go on at its new end.
fn trim_log(layout: &Layout, name: &str, max: u64) -> Result<(), DriverError> {
    let path = layout.log(name);
    if !fs::metadata(&path).is_ok_and(|metadata| metadata.len() > max) {
        return Ok(());
    }
    let copy = || {
        let mut log = fs::OpenOptions::new().read(true).write(true).open(&path)?;
        let length = log.metadata()?.len();
        std::io::Seek::seek(&mut log, std::io::SeekFrom::Start(length.saturating_sub(max)))?;
        let mut old = fs::File::create(path.with_extension("1"))?;
        std::io::copy(&mut std::io::Read::take(&log, max), &mut old)?;
        log.set_len(0)?;
        old.flush()
    };
    copy().map_err(DriverError::io("shorten", path.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_log_is_cut_and_its_end_kept() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let layout = Layout::new(state.path(), "i");
        fs::create_dir_all(layout.bundle("web")).expect("it is ours");
        let path = layout.log("web");
        let mut writer = fs::OpenOptions::new().create(true).append(true).open(&path).expect("it is ours");
        writer.write_all(b"0123456789").expect("it is ours");
        trim_log(&layout, "web", 10).expect("it is ours");
        assert_eq!(fs::read(&path).expect("it is there"), b"0123456789");
        writer.write_all(b"abc").expect("it is ours");
        trim_log(&layout, "web", 10).expect("it is ours");
        writer.write_all(b"new").expect("it is ours");
        assert_eq!(fs::read(&path).expect("it is there"), b"new");
        assert_eq!(fs::read(path.with_extension("1")).expect("it is there"), b"3456789abc");
    }
}
