//! A small server that stands for the services of many containers: one listening socket each, in one process and one thread.
//!
//! The bench starts itself again in each namespace with `--respond N`. It reads orders from standard input, a line each, and
//! answers each with a line: `close N` and `open N` end and begin to listen at one address, `count` says how many
//! connections there were.

use std::{
    cell::Cell,
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    rc::Rc,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{JoinHandle, LocalSet},
};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";

/// The most bytes of a request: a probe's is some hundred.
const MAX_REQUEST: usize = 4096;

/// Where the `nth` service of a namespace listens: an address of its own in 127/8.
pub(crate) fn address(nth: u32) -> SocketAddr {
    (Ipv4Addr::from(0x7f01_0001 + nth), 8080).into()
}

/// Serves until standard input ends.
pub(crate) fn respond(services: u32) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let count = Rc::new(Cell::new(0_u64));
        let mut listeners = Vec::new();
        for nth in 0..services {
            listeners.push(Some(listen(nth, &count).await?));
        }
        println!("ready");
        let (pass_on, mut orders) = mpsc::channel(1);
        std::thread::spawn(move || {
            io::stdin().lines().map_while(Result::ok).try_for_each(|line| pass_on.blocking_send(line))
        });
        while let Some(order) = orders.recv().await {
            let nth = |text: &str| text.parse().ok().filter(|nth| *nth < services).ok_or(io::ErrorKind::InvalidInput);
            match order.split_once(' ') {
                None if order == "count" => println!("{}", count.get()),
                Some(("close", text)) => {
                    if let Some(listener) = listeners[nth(text)? as usize].take() {
                        listener.abort();
                        // It is closed when the task has ended.
                        let _ = listener.await;
                    }
                    println!("closed");
                }
                Some(("open", text)) => {
                    listeners[nth(text)? as usize] = Some(listen(nth(text)?, &count).await?);
                    println!("open");
                }
                _ => return Err(io::ErrorKind::InvalidInput.into()),
            }
        }
        Ok(())
    })
}

async fn listen(nth: u32, count: &Rc<Cell<u64>>) -> io::Result<JoinHandle<()>> {
    let listener = TcpListener::bind(address(nth)).await?;
    let count = Rc::clone(count);
    Ok(tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.set(count.get() + 1);
            tokio::task::spawn_local(answer(stream));
        }
    }))
}

/// A probe that only connects asks nothing, and is answered nothing.
async fn answer(mut stream: TcpStream) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") && request.len() < MAX_REQUEST {
        match stream.read_buf(&mut request).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    // The peer may be gone.
    let _ = stream.write_all(ANSWER).await;
}

/// A network namespace in which services are answered for; both go when this is dropped.
pub(crate) struct Responder {
    netns: String,
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Responder {
    /// Makes the namespace, which must not be there, and waits until all listen.
    pub(crate) fn start(netns: &str, services: u32) -> Result<Self, String> {
        remove(netns);
        run("ip", &["netns", "add", netns])?;
        let started = Self::serve(netns, services);
        if started.is_err() {
            remove(netns);
        }
        started
    }

    fn serve(netns: &str, services: u32) -> Result<Self, String> {
        run("ip", &["-n", netns, "link", "set", "lo", "up"])?;
        let me = std::env::current_exe().map_err(|error| format!("find this program: {error}"))?;
        let mut child = Command::new("ip")
            .args(["netns", "exec", netns])
            .arg(me)
            .args(["--respond", &services.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("run ip: {error}"))?;
        let (orders, answers) = child.stdin.take().zip(child.stdout.take()).expect("they are piped");
        let mut responder = Self { netns: netns.to_owned(), child, orders, answers: BufReader::new(answers) };
        responder.read().map(|_| responder)
    }

    /// Ends to listen for one of them.
    pub(crate) fn close(&mut self, nth: u32) -> Result<(), String> {
        self.order(&format!("close {nth}")).map(drop)
    }

    /// Listens again.
    pub(crate) fn open(&mut self, nth: u32) -> Result<(), String> {
        self.order(&format!("open {nth}")).map(drop)
    }

    /// Connections so far.
    pub(crate) fn count(&mut self) -> Result<u64, String> {
        let answer = self.order("count")?;
        answer.parse().map_err(|_| format!("the responder in {} says {answer:?}", self.netns))
    }

    /// For the configuration.
    pub(crate) fn netns(&self) -> &str {
        &self.netns
    }

    fn order(&mut self, order: &str) -> Result<String, String> {
        writeln!(self.orders, "{order}").map_err(|error| format!("ask the responder in {}: {error}", self.netns))?;
        self.read()
    }

    fn read(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) => Err(format!("the responder in {} has ended", self.netns)),
            Ok(_) => Ok(line.trim_end().to_owned()),
            Err(error) => Err(format!("hear the responder in {}: {error}", self.netns)),
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        remove(&self.netns);
    }
}

/// Runs a program that says nothing when all is well.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("run {program}: {error}"))?;
    let said = || String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{program} {}: {}", arguments.join(" "), said())) }
}

/// Removes a namespace that an earlier run left, too.
fn remove(netns: &str) {
    if Path::new("/run/netns").join(netns).exists()
        && let Err(error) = run("ip", &["netns", "delete", netns])
    {
        eprintln!("bench: {error}");
    }
}
