//! What quinn asks of its surroundings: tokio's tasks, and our alarms. The tasks are those of the runtime in which the
//! transport was opened, whoever opens a connection: the store and the API have threads of their own, which may be busy with
//! other things, and which may end before the connection does.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime};
use tokio::runtime::Handle;

use crate::alarm::{Alarm, AlarmClock};

/// For all endpoints of an agent.
#[derive(Debug)]
pub(super) struct AlarmRuntime {
    /// Ours.
    pub(super) alarms: AlarmClock,
    /// The transport's.
    pub(super) tasks: Handle,
}

impl Runtime for AlarmRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(self.alarms.alarm(at))
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.tasks.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        quinn::TokioRuntime.wrap_udp_socket(socket)
    }
}

impl AsyncTimer for Alarm {
    fn reset(self: Pin<&mut Self>, at: Instant) {
        self.get_mut().set(at);
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Self::poll(self.get_mut(), cx)
    }
}
