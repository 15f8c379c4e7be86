//! The load: clients that ask as fast as they get answers, each one question at a time.
//!
//! What is answered within the span counts, and nothing after it; what fails counts whenever it does. Connections that stay
//! open are opened before the span begins.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    num::NonZero,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::Builder,
    task::JoinSet,
    time::timeout,
};

use crate::{
    cpu::{self, Busy},
    servers::{CLOSE, END_OF_HEAD, KEEP_ALIVE},
    site::{BACKENDS, Site},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Each question has a connection of its own: opened, asked, answered and closed.
    Connections,
    /// Each client has one connection for all its questions.
    Requests,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Connections, Self::Requests];

    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Requests => "requests",
        }
    }
}

pub struct Load {
    pub target: SocketAddr,
    pub kind: Kind,
    pub clients: usize,
    pub span: Duration,
}

/// What came of it.
pub struct Outcome {
    pub tally: Tally,
    /// The machine's CPU time.
    pub machine: Busy,
    /// The CPU time of the load balancer's processes.
    pub processes: Duration,
}

/// What clients saw.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Answers by backend.
    pub answers: [u64; BACKENDS],
    /// Failures by reason.
    pub failures: BTreeMap<String, u64>,
}

impl Load {
    /// Runs it on the client's host, in a thread for each CPU.
    pub fn run(&self, site: &Site) -> Result<Outcome> {
        let client = site.client();
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(self.clients);
        let ready = Barrier::new(threads + 1);
        let (tally, measured) = thread::scope(|scope| {
            let threads: Vec<_> = (0..threads)
                .map(|number| {
                    // The first ones have what is left over.
                    let clients = (self.clients + threads - 1 - number) / threads;
                    let ready = &ready;
                    scope.spawn(move || {
                        let asked = client.enter(|| self.run_clients(clients, ready));
                        // Nobody else may wait for one that has not come so far.
                        asked.inspect_err(|_| {
                            ready.wait();
                        })?
                    })
                })
                .collect();
            let measured = self.measure(site, &ready);
            let mut tally = Tally::default();
            for thread in threads {
                tally.add(thread.join().map_err(|_| anyhow!("a thread of clients panicked"))??);
            }
            anyhow::Ok((tally, measured))
        })?;
        let (machine, processes) = measured?;
        ensure!(
            tally.answers.iter().all(|answers| *answers > 0),
            "not every backend answered: {:?}; failures: {:?}",
            tally.answers,
            tally.failures
        );
        Ok(Outcome { tally, machine, processes })
    }

    fn measure(&self, site: &Site, ready: &Barrier) -> Result<(Busy, Duration)> {
        let processes = site.balancer_processes();
        // The clients wait for this one, also if it has nothing to measure.
        ready.wait();
        let processes = processes?;
        let before = (Busy::machine()?, cpu::of_processes(&processes)?);
        thread::sleep(self.span);
        let after = (Busy::machine()?, cpu::of_processes(&processes)?);
        Ok((after.0.since(before.0), after.1.saturating_sub(before.1)))
    }

    fn run_clients(&self, clients: usize, ready: &Barrier) -> Result<Tally> {
        let &Self { target, kind, span, .. } = self;
        let runtime = Builder::new_current_thread().enable_all().build().context("make a runtime");
        let opened = match (&runtime, kind) {
            (Ok(runtime), Kind::Requests) => runtime.block_on(open(target, clients)),
            _ => (0..clients).map(|_| None).collect(),
        };
        ready.wait();
        let end = Instant::now() + span;
        Ok(runtime?.block_on(async {
            let asking = opened.into_iter().map(|opened| ask_until(end, target, kind, opened));
            let mut tally = Tally::default();
            for asked in asking.collect::<JoinSet<_>>().join_all().await {
                tally.add(asked);
            }
            tally
        }))
    }
}

/// So many connections. One that fails is tried again, and counted, when it is asked.
async fn open(target: SocketAddr, clients: usize) -> Vec<Option<TcpStream>> {
    let opening = (0..clients).map(|_| async move { within(connect(target)).await.ok() });
    opening.collect::<JoinSet<_>>().join_all().await
}

/// Asks again and again. A connection that breaks is replaced.
async fn ask_until(end: Instant, target: SocketAddr, kind: Kind, mut opened: Option<TcpStream>) -> Tally {
    let mut tally = Tally::default();
    while Instant::now() < end {
        let asked = match kind {
            Kind::Connections => within(ask_once(target)).await,
            Kind::Requests => match within(ask_again(target, opened.take())).await {
                Ok((connection, backend)) => {
                    opened = Some(connection);
                    Ok(backend)
                }
                Err(reason) => Err(reason),
            },
        };
        match asked {
            Ok(backend) if Instant::now() < end => tally.answers[backend] += 1,
            Ok(_) => {}
            Err(error) => *tally.failures.entry(reason(&error)).or_default() += 1,
        }
    }
    tally
}

/// A connection from its opening to its end, with one question. Returns which backend answered.
pub async fn ask_once(target: SocketAddr) -> io::Result<usize> {
    let mut connection = connect(target).await?;
    let backend = ask(&mut connection, CLOSE).await?;
    match connection.read(&mut [0]).await? {
        0 => Ok(backend),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "more than the answer came")),
    }
}

async fn ask_again(target: SocketAddr, opened: Option<TcpStream>) -> io::Result<(TcpStream, usize)> {
    let mut connection = match opened {
        Some(connection) => connection,
        None => connect(target).await?,
    };
    let backend = ask(&mut connection, KEEP_ALIVE).await?;
    Ok((connection, backend))
}

async fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let connection = TcpStream::connect(target).await?;
    connection.set_nodelay(true)?;
    Ok(connection)
}

async fn ask(connection: &mut TcpStream, question: &[u8]) -> io::Result<usize> {
    connection.write_all(question).await?;
    let (mut answer, mut length) = ([0; 256], 0);
    loop {
        match connection.read(&mut answer[length..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => length += more,
        }
        // The body is one digit: the number of the backend.
        if let [head @ .., body] = &answer[..length]
            && head.ends_with(END_OF_HEAD)
        {
            let backend = char::from(*body).to_digit(10).map(|number| number as usize);
            let known = backend.filter(|number| (1..=BACKENDS).contains(number));
            return known.map(|number| number - 1).ok_or_else(|| io::ErrorKind::InvalidData.into());
        }
    }
}

pub async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn reason(error: &io::Error) -> String {
    error.kind().to_string()
}

impl Tally {
    pub fn done(&self) -> u64 {
        self.answers.iter().sum()
    }

    fn add(&mut self, Self { answers, failures }: Self) {
        for (sum, more) in self.answers.iter_mut().zip(answers) {
            *sum += more;
        }
        for (reason, times) in failures {
            *self.failures.entry(reason).or_default() += times;
        }
    }
}

/// Longer than the kernel takes to send a SYN again, and again.
const PATIENCE: Duration = Duration::from_secs(5);
