//! The log, on standard error. It never holds up who writes to it.
//!
//! A gateway's lines wait in memory for a thread that writes them. Where whoever reads standard error stalls, or it cannot be
//! written, lines are lost: they are counted, and told of when the log goes on. The audit trail has more room than the rest.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::counter;
use tracing::Metadata;
use tracing_subscriber::filter::{FilterExt, LevelFilter, Targets, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::prelude::*;

use crate::config::{Config, LogFormat};
use crate::metrics::LOG_LOST;
use crate::output;

/// While so many bytes wait, only lines of the audit trail are taken.
const LOG_BYTES: usize = 2 << 20;
/// While so many bytes wait, none is.
const AUDIT_BYTES: usize = 16 << 20;
/// The longest that the end of the process waits for the lines that are left.
const FLUSH_MAX: Duration = Duration::from_secs(2);
/// Before the next attempt at an output that is not to be waited for (`O_NONBLOCK`) and is full.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// The log of this process, from its start to its end.
pub struct Log(Option<Queue>);

impl Log {
    /// Starts it, once. A gateway logs what the settings say and waits for no reader; the other commands only tell what went
    /// wrong, and have a part in the audit trail.
    pub fn start(config: &Config, serving: bool) -> io::Result<Self> {
        let queue = if serving { Some(Queue::start(io::stderr())?) } else { None };
        let writer = match &queue {
            Some(queue) => BoxMakeWriter::new(queue.clone()),
            None => BoxMakeWriter::new(|| Direct),
        };
        let targets: Targets = config.log.parse().expect("`config` has checked it");
        let of_commands = Targets::new().with_default(tracing::Level::ERROR).with_target("audit", tracing::Level::INFO);
        let targets = if serving { targets } else { of_commands };
        // At their lowest levels dependencies write whole frames, headers and bodies, passwords and tokens in them. No setting
        // has them do so: what is ours is logged as asked for, what is theirs down to `info`.
        let ours = |target: &str| matches!(target.split("::").next(), Some("doorward" | "audit"));
        let harmless = filter_fn(move |line| *line.level() <= tracing::Level::INFO || ours(line.target()));
        let filter = targets.and(harmless.with_max_level_hint(LevelFilter::TRACE));
        let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(io::stderr().is_terminal());
        match config.log_format {
            LogFormat::Text => tracing_subscriber::registry().with(lines.with_filter(filter)).init(),
            LogFormat::Json => tracing_subscriber::registry().with(lines.json().with_filter(filter)).init(),
        }
        if serving {
            // A panic costs one call; to print it would hold that up like any other line.
            std::panic::set_hook(Box::new(|panic| tracing::error!("{}", panic.to_string().replace('\n', " "))));
        }
        Ok(Self(queue))
    }

    /// Tells a line as [`output::tell`] does, behind what was logged.
    pub fn tell(&self, line: impl std::fmt::Display) {
        match &self.0 {
            Some(queue) => queue.push(Kind::Audit, format!("doorward: {line}\n").as_bytes()),
            None => output::tell(line),
        }
    }

    /// Waits until all is written, as long as that is worth it.
    pub fn flush(&self) {
        if let Some(queue) = &self.0 {
            queue.flush();
        }
    }
}

/// Which lines: the audit trail, or the rest.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Log,
    Audit,
}

/// Lines that wait to be written.
#[derive(Clone)]
struct Queue(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There is a line again.
    filled: Condvar,
    /// All is written.
    drained: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<(Kind, Box<[u8]>)>,
    bytes: usize,
    /// The thread has taken a line that is not written yet.
    writing: bool,
    /// Lines lost of which nothing was told yet: of the log, of the audit trail.
    lost: [u64; 2],
}

impl Queue {
    /// Starts the thread that writes. It ends with the process: whoever ends that has called [`Self::flush`].
    fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let queue = Self(Arc::default());
        let shared = queue.0.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || shared.write_on(out))?;
        Ok(queue)
    }

    /// Takes a line, or loses it.
    fn push(&self, kind: Kind, line: &[u8]) {
        let mut state = self.0.lock();
        let room = if kind == Kind::Audit { AUDIT_BYTES } else { LOG_BYTES };
        if state.bytes + line.len() > room {
            state.lose(kind);
            return;
        }
        state.bytes += line.len();
        state.lines.push_back((kind, line.into()));
        drop(state);
        self.0.filled.notify_one();
    }

    fn flush(&self) {
        let state = self.0.lock();
        let open = |state: &mut State| state.writing || !state.lines.is_empty();
        drop(self.0.drained.wait_timeout_while(state, FLUSH_MAX, open));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes whatever comes.
    fn write_on(&self, mut out: impl Write) {
        loop {
            let (kind, line) = self.next();
            let written = write_whole(&mut out, &line);
            match written {
                Ok(()) => self.tell_of_lost(),
                Err(_) => self.lock().lose(kind),
            }
        }
    }

    /// Waits for a line.
    fn next(&self) -> (Kind, Box<[u8]>) {
        let mut state = self.lock();
        state.writing = false;
        loop {
            if let Some((kind, line)) = state.lines.pop_front() {
                state.bytes -= line.len();
                state.writing = true;
                return (kind, line);
            }
            self.drained.notify_all();
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A line was written, so that others can be again.
    fn tell_of_lost(&self) {
        let [log, audit] = {
            let mut state = self.lock();
            // Where there is no room yet this would be lost itself.
            if state.lost == [0, 0] || state.bytes > LOG_BYTES / 2 {
                return;
            }
            std::mem::take(&mut state.lost)
        };
        tracing::warn!(
            log,
            audit,
            "lines of the log, or of the audit trail, were lost: standard error did not take them"
        );
    }
}

impl State {
    fn lose(&mut self, kind: Kind) {
        self.lost[kind as usize] += 1;
        counter!(LOG_LOST, "what" => if kind == Kind::Audit { "audit" } else { "log" }).increment(1);
    }
}

fn write_whole(out: &mut impl Write, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match out.write(line) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => line = &line[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(FULL_PAUSE),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { queue: self, kind: Kind::Log }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line<'a> {
        Line { queue: self, kind: if meta.target() == "audit" { Kind::Audit } else { Kind::Log } }
    }
}

/// Takes one line, which `tracing` writes at once.
struct Line<'a> {
    queue: &'a Queue,
    kind: Kind,
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.push(self.kind, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error of a command, which may wait for its reader. `tracing` would print an error here, and panic.
struct Direct;

impl Write for Direct {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// Takes a line for each word it is given, and nothing meanwhile.
    struct Gate(Receiver<()>, std::sync::mpsc::Sender<String>);

    impl Write for Gate {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(|_| ErrorKind::BrokenPipe)?;
            let _ = self.1.send(String::from_utf8(line.to_vec()).unwrap());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_writes_never_waits_and_the_audit_trail_has_more_room() {
        let (open, gate) = channel();
        let (written, lines) = channel();
        let queue = Queue::start(Gate(gate, written)).unwrap();
        let line = vec![b'.'; 1024];
        let most = AUDIT_BYTES / line.len() + 10;
        for kind in [Kind::Log, Kind::Audit] {
            (0..most).for_each(|_| queue.push(kind, &line));
        }
        let state = || {
            let state = queue.0.lock();
            (state.lost, state.bytes)
        };
        let (lost, bytes) = state();
        let kept = LOG_BYTES / line.len();
        // The thread holds one line more.
        assert!((most - kept - 1..=most - kept).contains(&usize::try_from(lost[0]).unwrap()), "{lost:?}");
        assert!(lost[1] > 0 && bytes <= AUDIT_BYTES && bytes > AUDIT_BYTES - 2048, "{lost:?}, {bytes} bytes wait");

        let taken = 2 * most - usize::try_from(lost[0] + lost[1]).unwrap();
        (0..taken).for_each(|_| open.send(()).unwrap());
        queue.flush();
        assert_eq!(lines.try_iter().filter(|line| line.len() == 1024).count(), taken);
        assert_eq!(state(), ([0, 0], 0), "it is told of");
    }
}
