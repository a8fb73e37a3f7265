//! Stands in for what other branches of agentd bring, so that this one compiles; goes when they meet.

pub(crate) use ringmesh_agentd::config;

#[derive(Debug, thiserror::Error)]
#[error("this build has no {0}")]
pub(crate) struct Missing(&'static str);

impl Missing {
    pub(crate) fn exit_status(&self) -> u8 {
        1
    }
}

pub(crate) mod agent {
    use std::path::Path;

    use super::{Missing, config};

    pub(crate) fn run(_config_path: &Path) -> Result<(), Missing> {
        Err(Missing("agent"))
    }

    pub(crate) fn check(config_path: &Path) -> Result<(), config::ConfigError> {
        config::Config::load(config_path).map(drop)
    }
}

pub(crate) mod identity {
    pub(crate) mod commands {
        use std::{net::IpAddr, path::PathBuf};

        use super::super::Missing;

        #[allow(dead_code)]
        #[derive(Debug)]
        pub(crate) struct InitOptions {
            pub(crate) config_path: PathBuf,
            pub(crate) name: Option<String>,
            pub(crate) uplink_a: Option<IpAddr>,
            pub(crate) uplink_b: Option<IpAddr>,
            pub(crate) state_dir: Option<PathBuf>,
        }

        #[allow(dead_code)]
        #[derive(Debug)]
        pub(crate) struct JoinOptions {
            pub(crate) config_path: PathBuf,
            pub(crate) name: Option<String>,
            pub(crate) uplink_a: Option<IpAddr>,
            pub(crate) uplink_b: Option<IpAddr>,
            pub(crate) state_dir: Option<PathBuf>,
            pub(crate) token: String,
        }

        pub(crate) fn init(_options: &InitOptions) -> Result<String, Missing> {
            Err(Missing("init"))
        }

        pub(crate) fn join(_options: &JoinOptions) -> Result<String, Missing> {
            Err(Missing("join"))
        }
    }

    pub(crate) mod tls {
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};

        use super::super::Missing;

        pub(crate) fn api_client_config(
            _authorities: &[CertificateDer<'static>],
            _chain: Vec<CertificateDer<'static>>,
            _key: PrivateKeyDer<'static>,
        ) -> Result<rustls::ClientConfig, Missing> {
            Err(Missing("TLS"))
        }
    }
}

pub(crate) mod lab {
    use std::{path::PathBuf, process::ExitStatus};

    use ringmesh_proto::Uplink;
    use serde::Serialize;

    pub(crate) use super::Missing as LabError;
    use super::{Missing, config::Mode};

    #[allow(dead_code)]
    #[derive(Debug)]
    pub(crate) struct UpOptions {
        pub(crate) name: String,
        pub(crate) hosts: u16,
        pub(crate) containers: u16,
        pub(crate) mode: Mode,
        pub(crate) dir: Option<PathBuf>,
        pub(crate) binary: PathBuf,
    }

    #[derive(Debug, Serialize)]
    pub(crate) struct LabStatus {
        pub(crate) name: String,
        pub(crate) hosts: Vec<LabHost>,
    }

    #[derive(Debug, Serialize)]
    pub(crate) struct LabHost {
        pub(crate) name: String,
        pub(crate) pid: u32,
        pub(crate) netns: String,
        pub(crate) api: String,
    }

    #[allow(dead_code)]
    #[derive(Debug)]
    pub(crate) enum Fault {
        CutUplink { host: String, uplink: Uplink },
        Heal { host: String },
        Isolate { host: String },
        Kill { host: String },
        Stop { host: String },
        Cont { host: String },
        Start { host: String },
        KillService { container: String, host: String },
        StartService { container: String, host: String },
    }

    pub(crate) fn up(_options: &UpOptions, _progress: &mut dyn FnMut(&str)) -> Result<LabStatus, Missing> {
        Err(Missing("lab"))
    }

    pub(crate) fn status(_name: Option<&str>) -> Result<LabStatus, Missing> {
        Err(Missing("lab"))
    }

    pub(crate) fn down(_name: Option<&str>) -> Result<(), Missing> {
        Err(Missing("lab"))
    }

    pub(crate) fn exec(_name: Option<&str>, _host: &str, _argv: &[String]) -> Result<ExitStatus, Missing> {
        Err(Missing("lab"))
    }

    pub(crate) fn fault(_name: Option<&str>, _fault: &Fault) -> Result<(), Missing> {
        Err(Missing("lab"))
    }

    pub(crate) fn newest() -> Option<LabStatus> {
        None
    }
}

pub(crate) mod runtime {
    pub(crate) mod shim {
        use std::process::ExitCode;

        pub(crate) fn main(_args: Vec<String>) -> ExitCode {
            ExitCode::FAILURE
        }
    }
}

pub(crate) mod probe {
    pub(crate) mod runner {
        use std::process::ExitCode;

        pub(crate) fn main() -> ExitCode {
            ExitCode::FAILURE
        }
    }

    pub(crate) mod child {
        use std::process::ExitCode;

        pub(crate) fn main() -> ExitCode {
            ExitCode::FAILURE
        }
    }
}
