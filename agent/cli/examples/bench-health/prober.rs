//! What Debian has for the same work: prometheus, which asks prometheus-blackbox-exporter to probe each target, over HTTP.
//!
//! Both run in the namespace of the targets, with their defaults but for the interval.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::responder::address;

/// Both programs, until this is dropped.
pub(crate) struct Prometheus {
    processes: Vec<Child>,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    /// Probes the first `targets` services of a namespace every `interval_s` seconds. The programs are below `unpacked`.
    pub(crate) fn start(unpacked: &Path, netns: &str, targets: u32, interval_s: u64) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|error| format!("make a directory: {error}"))?;
        let say = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
        let mut config = format!(
            "global: {{ scrape_interval: {interval_s}s }}\nscrape_configs:\n- job_name: blackbox\n  metrics_path: /probe\n  \
             params: {{ module: [http_2xx] }}\n  relabel_configs:\n  - {{ source_labels: [__address__], target_label: \
             __param_target }}\n  - {{ target_label: __address__, replacement: '127.0.0.1:9115' }}\n  static_configs:\n  \
             - targets:\n"
        );
        for nth in 0..targets {
            // A String takes whatever is written.
            let _ = writeln!(config, "    - 'http://{}/'", address(nth));
        }
        let (config_path, modules_path) = (dir.path().join("prometheus.yml"), dir.path().join("blackbox.yml"));
        fs::write(&config_path, config).map_err(say("write a configuration"))?;
        let modules = "modules: { http_2xx: { prober: http, timeout: 1s, http: { preferred_ip_protocol: ip4 } } }\n";
        fs::write(&modules_path, modules).map_err(say("write a configuration"))?;
        let mut processes = Vec::new();
        let path = |path: &Path| path.display().to_string();
        let mut spawn = |program: &str, arguments: &[String]| {
            let program = unpacked.join("usr/bin").join(program);
            let mut command = Command::new("nsenter");
            // nsenter becomes the program, so that its pid is the program's.
            command.arg(format!("--net=/run/netns/{netns}")).arg(&program).args(arguments);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            processes.push(command.spawn().map_err(|error| format!("run {}: {error}", program.display()))?);
            Ok::<_, String>(())
        };
        spawn(
            "prometheus-blackbox-exporter",
            &["--config.file".into(), path(&modules_path), "--web.listen-address=127.0.0.1:9115".into()],
        )?;
        spawn(
            "prometheus",
            &[
                format!("--config.file={}", path(&config_path)),
                format!("--storage.tsdb.path={}", path(&dir.path().join("data"))),
                "--web.listen-address=127.0.0.1:9090".into(),
            ],
        )?;
        Ok(Self { processes, _dir: dir })
    }

    /// Of both programs.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Child::id).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
