//! Clients that ask as fast as they are answered.

use std::{
    fmt,
    time::{Duration, Instant},
};

use ringmesh_proto::etcd::etcdserverpb::{PutRequest, RangeRequest, kv_client::KvClient};
use tonic::{Status, transport::Channel};

use crate::bench::sample::Sample;

/// Keys that are written and read, in turn.
const KEYS: usize = 10_000;

/// As in etcd's own measurements.
const VALUE_BYTES: usize = 256;

/// Connections at the most: more clients than this share them.
const CONNECTIONS: usize = 48;

/// What is asked.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Put,
    Get { serializable: bool },
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Put => "put",
            Self::Get { serializable: false } => "linearizable get",
            Self::Get { serializable: true } => "serializable get",
        })
    }
}

/// How it went.
pub(crate) struct Leg {
    pub(crate) operations: usize,
    pub(crate) per_second: f64,
    pub(crate) median_ms: f64,
    pub(crate) p99_ms: f64,
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "median {:.2} ms, p99 {:.2} ms", self.median_ms, self.p99_ms)
    }
}

/// Has so many clients ask for so long, spread over the members. Any answer that is an error ends it.
pub(crate) async fn run(urls: &[String], kind: Kind, clients: usize, span: Duration) -> Result<Leg, String> {
    let mut channels = Vec::new();
    for nth in 0..clients.min(CONNECTIONS) {
        let url = urls[nth % urls.len()].clone();
        let channel = Channel::from_shared(url).map_err(|error| error.to_string())?;
        channels.push(KvClient::new(channel.connect().await.map_err(|error| error.to_string())?));
    }
    let begin = Instant::now();
    let each =
        (0..clients).map(|nth| tokio::spawn(client(channels[nth % channels.len()].clone(), kind, nth, begin + span)));
    let mut latencies = Vec::new();
    for client in each.collect::<Vec<_>>() {
        let took = client.await.map_err(|error| error.to_string())?;
        latencies.extend(took.map_err(|status| format!("{kind}: {}", status.message()))?);
    }
    let seconds = begin.elapsed().as_secs_f64();
    let operations = latencies.len();
    let sample = Sample::new(latencies).ok_or_else(|| format!("{kind}: nothing was answered"))?;
    let (median_ms, p99_ms) = (sample.quantile(0.5), sample.quantile(0.99));
    Ok(Leg { operations, per_second: operations as f64 / seconds, median_ms, p99_ms })
}

/// Latencies in milliseconds.
async fn client(mut kv: KvClient<Channel>, kind: Kind, nth: usize, until: Instant) -> Result<Vec<f64>, Status> {
    let mut latencies = Vec::new();
    let value = vec![b'v'; VALUE_BYTES];
    // Each client has its own way through the keys.
    for turn in (0..).map(|turn: usize| turn * 7 + nth * 101) {
        let begin = Instant::now();
        if begin >= until {
            break;
        }
        let key = format!("key-{:06}", turn % KEYS).into_bytes();
        match kind {
            Kind::Put => {
                let request = PutRequest { key: key.into(), value: value.clone().into(), ..PutRequest::default() };
                kv.put(request).await?;
            }
            Kind::Get { serializable } => {
                let request = RangeRequest { key: key.into(), serializable, ..RangeRequest::default() };
                kv.range(request).await?;
            }
        }
        latencies.push(begin.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(latencies)
}
