//! Which processors the server and the load generator run on.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Result;

/// Where a row puts the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// The server alone on the last processor with one worker thread, the generator on the others.
    OneCore,
    /// Both anywhere, the server with a worker a processor: for what a server does with the whole machine.
    WholeMachine,
}

/// The processors this process was given.
#[derive(Clone, Copy)]
pub struct Processors {
    all: CpuSet,
    last: usize,
}

impl Processors {
    /// Asks the system; to be called before any placement.
    pub fn of_this_process() -> Result<Self> {
        let all = sched_getaffinity(None)?;
        let last = (0..CpuSet::MAX_CPU).rev().find(|&processor| all.is_set(processor)).ok_or("no processor")?;
        Ok(Self { all, last })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.count() as usize
    }

    /// Worker threads of a server.
    pub fn workers(&self, placement: Placement) -> usize {
        match placement {
            Placement::OneCore => 1,
            Placement::WholeMachine => self.count(),
        }
    }

    /// Moves this thread to where the generator belongs.
    pub fn place_generator(&self, placement: Placement) -> Result<()> {
        let mut set = self.all;
        if placement == Placement::OneCore && self.count() > 1 {
            set.unset(self.last);
        }
        Ok(sched_setaffinity(None, &set)?)
    }

    /// Runs `spawn` where the server belongs: a child begins on the processors of the thread that made it.
    pub fn place_server<T>(&self, placement: Placement, spawn: impl FnOnce() -> T) -> Result<T> {
        let before = sched_getaffinity(None)?;
        let mut set = self.all;
        if placement == Placement::OneCore {
            set.clear();
            set.set(self.last);
        }
        sched_setaffinity(None, &set)?;
        let spawned = spawn();
        sched_setaffinity(None, &before)?;
        Ok(spawned)
    }
}
