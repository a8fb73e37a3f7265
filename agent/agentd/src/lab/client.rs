//! Talks to the agents of a lab over their unix sockets, from code that blocks.

use std::{future::Future, path::PathBuf, thread, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// An answer that takes longer counts as none.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a host's API, as [`super::HostStatus::api`] names it. It is made with the first request, and again
/// after it broke. Requests have no time limit of their own.
pub fn channel(api: &str) -> Channel {
    let path = PathBuf::from(api.strip_prefix("unix:").unwrap_or(api));
    let connector = tower::service_fn(move |_: tonic::codegen::http::Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://agent").connect_with_connector_lazy(connector)
}

/// A request that fails when no answer comes in time.
pub(super) fn bounded<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(REQUEST_TIMEOUT);
    request
}

/// Runs asynchronous work to its end, also for a caller that is itself within a runtime.
pub fn block_on<T: Send>(work: impl Future<Output = T> + Send) -> T {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime on this thread needs no more than two file descriptors").block_on(work)
    };
    thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
