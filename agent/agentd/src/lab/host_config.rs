//! The configuration of one host of a lab.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use ringmesh_proto::Uplink;

use super::{
    plan::{self, HostNumber},
    rootfs,
};
use crate::config::{
    Api, Config, Container, Host, Http, Identity, Log, Mesh, Network, Oci, OciRuntime, Probe, Repair, RepairMode,
    Service, Store, Trunk, UplinkAddress, Uplinks,
};

/// What a service of the lab is probed with: soon enough to watch a fault with one's own eyes.
const INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_millis(500);
const THRESHOLD_DOWN: u32 = 2;

/// Who rents the containers, in turn.
const TENANTS: [&str; 2] = ["red", "blue"];

/// Where etcd's API is found in each host's own namespace.
const ETCD: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2379);

/// The configuration of a host with `containers` containers, in one of `zones` zones.
pub(super) fn host_config(
    lab: &str,
    dir: &Path,
    host: HostNumber,
    containers: u16,
    zones: u16,
    repair: RepairMode,
) -> Config {
    let uplink = |uplink| UplinkAddress { address: host.address(uplink).into(), port: crate::config::DEFAULT_PORT };
    Config {
        host: Host { name: host.name(), state_dir: host.state_dir(dir), zone: host.zone(zones), rack: None },
        uplink: Uplinks { a: uplink(Uplink::A), b: Some(uplink(Uplink::B)) },
        mesh: Mesh::default(),
        trunk: Trunk::default(),
        store: Store { etcd_listen: vec![ETCD], ..Store::default() },
        api: Api { socket: host.socket(dir), listen: Vec::new() },
        identity: Identity::default(),
        log: Log::default(),
        probe: Probe::default(),
        repair: Repair { mode: repair, ..Repair::default() },
        pools: Vec::new(),
        judgement: Default::default(),
        applications: Vec::new(),
        containers: (1..=containers).map(|nth| container(lab, dir, host, nth)).collect(),
    }
}

fn container(lab: &str, dir: &Path, host: HostNumber, nth: u16) -> Container {
    let name = host.container_name(nth);
    Container {
        tenant: TENANTS[usize::from(nth - 1) % TENANTS.len()].into(),
        labels: BTreeMap::from([("app".into(), "web".into())]),
        oci: Some(Oci {
            runtime: OciRuntime::Libcontainer,
            rootfs: dir.join("rootfs"),
            args: rootfs::init_args(&plan::container_mark(lab, &name)),
            env: vec!["PATH=/bin:/sbin".into()],
            memory_limit: None,
        }),
        docker: None,
        declared: None,
        network: Some(Network {
            bridge: plan::CONTAINER_BRIDGE.into(),
            address: format!("{}/24", host.container_address(nth)),
            gateway: Some(host.gateway().into()),
        }),
        member: false,
        services: vec![web()],
        name,
    }
}

fn web() -> Service {
    Service {
        interval: INTERVAL,
        timeout: TIMEOUT,
        threshold_down: THRESHOLD_DOWN,
        restart: rootfs::restart_args(),
        http: Some(Http::new(([127, 0, 0, 1], rootfs::PORT).into())),
        ..Service::new("web")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::plan::{MAX_CONTAINERS, MAX_HOSTS};

    #[test]
    fn what_the_lab_writes_the_agent_takes() {
        let host = HostNumber::new(MAX_HOSTS).expect("in range");
        let config = host_config("lab", Path::new("/run/x"), host, MAX_CONTAINERS, 3, RepairMode::Manual);
        let read = Config::parse(Path::new("agent.toml"), &config.to_toml()).expect("the agent takes it");
        assert_eq!((read.host.name.as_str(), read.host.zone.as_str()), ("h64", "z1"));
        assert_eq!(read.uplink.a.socket_addr().to_string(), "10.77.0.64:7400");
        assert_eq!(read.uplink.b.map(|b| b.socket_addr().to_string()), Some("10.78.0.64:7400".into()));
        assert_eq!(read.api.socket, Path::new("/run/x/h64/agent.sock"));
        assert_eq!(read.containers.len(), 64);
        let last = &read.containers[63];
        assert_eq!((last.name.as_str(), last.tenant.as_str()), ("h64-c64", "blue"));
        let network = last.network.as_ref().expect("set");
        assert_eq!((network.address.as_str(), network.gateway), ("10.200.64.65/24", Some([10, 200, 64, 1].into())));
        assert_eq!(last.oci.as_ref().expect("set").args[2], "ringmesh-lab=lab/h64-c64");
    }
}
