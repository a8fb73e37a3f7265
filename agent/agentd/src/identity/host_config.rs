//! The configuration of a host that gets its identity: read if it is there, otherwise written from flags.
//!
//! It owns the flags that `init` and `join` share, and knows nothing of keys.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use super::{IdentityError, files};
use crate::config::{Config, ConfigError, DEFAULT_PORT, is_name};

/// What the command line says of the host.
pub(super) struct Flags<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) uplink_a: Option<IpAddr>,
    pub(super) uplink_b: Option<IpAddr>,
    pub(super) state_dir: Option<&'a Path>,
    pub(super) zone: Option<&'a str>,
}

/// A configuration, and its text if it still must be written.
pub(super) struct HostConfig {
    path: PathBuf,
    pub(super) config: Config,
    text: Option<String>,
}

impl HostConfig {
    /// Reads the file, or makes one of the flags if there is none.
    pub(super) fn new(path: &Path, flags: &Flags<'_>) -> Result<Self, IdentityError> {
        let path = path.to_owned();
        match Config::load(&path) {
            Ok(config) => {
                flags.check(&path, &config)?;
                Ok(Self { path, config, text: None })
            }
            Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let text = flags.to_toml(&path)?;
                Ok(Self { config: Config::parse(&path, &text)?, path, text: Some(text) })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the file unless it was there; says whether it did.
    pub(super) fn write(&self) -> Result<bool, IdentityError> {
        let Some(text) = &self.text else { return Ok(false) };
        if let Some(directory) = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            let failed = |source| IdentityError::Io { action: "make", path: directory.to_owned(), source };
            fs::create_dir_all(directory).map_err(failed)?;
        }
        files::write(&self.path, text.as_bytes(), files::PUBLIC)?;
        Ok(true)
    }
}

impl Flags<'_> {
    fn check(&self, path: &Path, config: &Config) -> Result<(), IdentityError> {
        let contradiction = |flag, key, given: String, found: String| {
            if given == found {
                return Ok(());
            }
            Err(IdentityError::Contradiction { flag, given, path: path.to_owned(), key, found })
        };
        if let Some(name) = self.name {
            contradiction("name", "host.name", name.to_owned(), config.host.name.clone())?;
        }
        if let Some(address) = self.uplink_a {
            let found = config.uplink.a.address.to_string();
            contradiction("uplink-a", "uplink.a.address", address.to_string(), found)?;
        }
        if let Some(address) = self.uplink_b {
            let found = config.uplink.b.map_or("absent".into(), |uplink| uplink.address.to_string());
            contradiction("uplink-b", "uplink.b.address", address.to_string(), found)?;
        }
        if let Some(zone) = self.zone {
            contradiction("zone", "host.zone", zone.to_owned(), config.host.zone.clone())?;
        }
        if let Some(state_dir) = self.state_dir {
            let found = config.host.state_dir.display().to_string();
            contradiction("state-dir", "host.state_dir", state_dir.display().to_string(), found)?;
        }
        Ok(())
    }

    fn to_toml(&self, path: &Path) -> Result<String, IdentityError> {
        let Some(uplink_a) = self.uplink_a else { return Err(IdentityError::NoConfig { path: path.to_owned() }) };
        let name = self.name.map_or_else(hostname, |name| Ok(name.to_owned()))?;
        let name = quoted(&name);
        let state_dir = match self.state_dir {
            Some(state_dir) => {
                let absolute = std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned());
                format!("state_dir = {}", quoted(&absolute.to_string_lossy()))
            }
            None => "# state_dir = \"/var/lib/ringmesh\"".into(),
        };
        let zone = match self.zone {
            Some(zone) => format!("zone = {}", quoted(zone)),
            None => "# zone = \"default\"".into(),
        };
        let uplink_b = match self.uplink_b {
            Some(address) => format!("[uplink.b]\naddress = \"{address}\"\n# port = {DEFAULT_PORT}\n"),
            None => {
                "# A second interface, so that no single cable cuts this host off:\n# [uplink.b]\n# address = \"…\"\n"
                    .into()
            }
        };
        Ok(format!(
            "# The configuration of this host's agent. `ringmesh config show` prints it with every default.\n\
             \n\
             [host]\n\
             name = {name}\n\
             {state_dir}\n\
             {zone}\n\
             \n\
             # The interfaces for the mesh: ring A runs over uplink A, ring B over uplink B.\n\
             [uplink.a]\n\
             address = \"{uplink_a}\"\n\
             # port = {DEFAULT_PORT}\n\
             \n\
             {uplink_b}"
        ))
    }
}

/// The first label of this machine's name, in lower case.
fn hostname() -> Result<String, IdentityError> {
    let path = Path::new("/proc/sys/kernel/hostname");
    let name = fs::read_to_string(path).map_err(|source| IdentityError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let label = name.trim().split('.').next().unwrap_or_default().to_ascii_lowercase();
    if is_name(&label) { Ok(label) } else { Err(IdentityError::Hostname { name: name.trim().to_owned() }) }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Option<IpAddr> {
        Some([10, 0, 0, last].into())
    }

    #[test]
    fn a_file_from_flags_reads_back_and_agrees_with_them() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let path = directory.path().join("etc/agent.toml");
        let state_dir = directory.path().join("a \"quoted\" state");
        for uplink_b in [None, address(2)] {
            let flags =
                Flags { name: Some("h1"), uplink_a: address(1), uplink_b, state_dir: Some(&state_dir), zone: None };
            let made = HostConfig::new(&path, &flags).expect("the flags are enough");
            assert!(made.write().expect("it can be written"));
            let read = HostConfig::new(&path, &flags).expect("the file agrees with the flags");
            assert!(!read.write().expect("there is nothing to write"));
            assert_eq!(read.config.to_toml(), made.config.to_toml());
            assert_eq!(read.config.host.state_dir, state_dir);
            assert_eq!(read.config.uplink.b.map(|uplink| uplink.address), uplink_b);
            fs::remove_file(&path).expect("it was written");
        }
    }

    #[test]
    fn flags_that_contradict_the_file_are_named() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let path = directory.path().join("agent.toml");
        fs::write(&path, "[host]\nname = \"h1\"\n[uplink.a]\naddress = \"10.0.0.1\"\n").expect("it can be written");
        let none = Flags { name: None, uplink_a: None, uplink_b: None, state_dir: None, zone: None };
        assert!(HostConfig::new(&path, &none).is_ok());
        let cases = [
            (Flags { name: Some("h2"), ..none }, "--name h2 contradicts"),
            (Flags { uplink_a: address(9), ..none }, "uplink.a.address is 10.0.0.1"),
            (Flags { uplink_b: address(9), ..none }, "uplink.b.address is absent"),
            (Flags { state_dir: Some(Path::new("/x")), ..none }, "host.state_dir is /var/lib/ringmesh"),
        ];
        for (flags, expected) in cases {
            let error = HostConfig::new(&path, &flags).err().expect(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn too_few_flags_and_bad_values_are_refused() {
        let path = Path::new("/nonexistent/agent.toml");
        let flags = Flags { name: Some("h1"), uplink_a: None, uplink_b: None, state_dir: None, zone: None };
        assert!(matches!(HostConfig::new(path, &flags), Err(IdentityError::NoConfig { .. })));
        let flags = Flags { name: Some("H 1"), uplink_a: address(1), ..flags };
        assert!(matches!(HostConfig::new(path, &flags), Err(IdentityError::Config(_))));
    }
}
