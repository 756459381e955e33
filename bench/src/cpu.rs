//! What a process used, as the operating system counts it (Linux, `/proc`).

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use crate::Result;

/// `/proc` counts user and system time in hundredths of a second, whatever the kernel's own tick is.
const TICK: Duration = Duration::from_millis(10);

/// The processor time a process had used at one moment.
pub struct Reading {
    /// Nanoseconds on a processor and nanoseconds waiting for one, by thread.
    threads: HashMap<String, [u64; 2]>,
    user: Duration,
    system: Duration,
}

/// The processor time a process used between two readings.
#[derive(Clone, Copy, Default, Debug)]
pub struct Spent {
    /// On a processor, to the nanosecond.
    pub total: Duration,
    /// Ready to run, but not on a processor: there were more threads than processors.
    pub waited: Duration,
    /// The part of the total in the program, in steps of 10 ms.
    pub user: Duration,
    /// The part of the total in the kernel on its behalf, in steps of 10 ms.
    pub system: Duration,
}

/// Reads the clocks of all threads of a process.
pub fn read(pid: u32) -> Result<Reading> {
    let mut threads = HashMap::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?;
        // A thread may end between the listing and the reading.
        let Ok(line) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
        let mut times = line.split(' ').map(|time| time.parse().ok());
        let [Some(ran), Some(waited)] = [(); 2].map(|()| times.next().flatten()) else {
            return Err("schedstat has no times".into());
        };
        threads.insert(thread.file_name().to_string_lossy().into_owned(), [ran, waited]);
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command may hold blanks and brackets; what follows its last bracket does not (proc(5): state is field 3).
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |field: usize| fields.get(field - 3).and_then(|text| text.parse().ok()).ok_or("stat is too short");
    Ok(Reading { threads, user: TICK * ticks(14)?, system: TICK * ticks(15)? })
}

impl Reading {
    /// What was used from this reading to a later one. Threads that ended in between are not counted.
    pub fn until(&self, later: &Reading) -> Spent {
        let sum = |which: usize| {
            let used =
                |(thread, now): (&String, &[u64; 2])| now[which] - self.threads.get(thread).map_or(0, |t| t[which]);
            Duration::from_nanos(later.threads.iter().map(used).sum())
        };
        Spent {
            total: sum(0),
            waited: sum(1),
            user: later.user.saturating_sub(self.user),
            system: later.system.saturating_sub(self.system),
        }
    }
}

/// The processor time that all programs of the machine together have used, in steps of 10 ms.
pub fn whole_machine() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().and_then(|line| line.strip_prefix("cpu ")).ok_or("stat has no first line")?;
    let ticks: Vec<u64> = line.split_whitespace().filter_map(|ticks| ticks.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq (proc(5)): all but the idle ones.
    let [user, nice, system, _, _, irq, softirq, ..] = ticks[..] else { return Err("stat is too short".into()) };
    Ok(Duration::from_millis(10 * (user + nice + system + irq + softirq)))
}

/// Resident memory in KiB, counted from the page tables: the counter in `status` may lag by a megabyte.
pub fn resident_kib(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).ok_or("smaps_rollup has no Rss")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
