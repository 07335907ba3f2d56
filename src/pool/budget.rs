//! Owns how the memory and the threads of all workers are shared out. Refuses to know which workers there are; the pool counts them.
//!
//! Every worker gets one share, and an exclusive worker a second one while there are second shares: as many as one key may have
//! exclusive workers. There are shares for every place and every second share, so the sum stays within the budget whatever runs. A spare
//! has none: nothing runs on it, and it gets a share when it becomes a worker.

use super::WorkerClass;
use super::config::Config;

/// Share of the machine's memory that workers get when the config says nothing, in percent.
const DEFAULT_MEMORY_PERCENT: u64 = 60;

/// Memory that DuckDB may use while it loads its extensions, which takes less.
const SPARE_MEMORY_BYTES: u64 = 32 << 20;

/// What one process may use. DuckDB keeps to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Threads that run statements.
    pub threads: u32,
    /// It holds a second share.
    pub second_share: bool,
}

/// What all processes together may use.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    memory_bytes: u64,
    /// None stands for as many as each may have.
    threads: Option<u32>,
    threads_per_worker: u32,
    places: u64,
    second_shares: u64,
}

impl Budget {
    /// The budget of this config on a machine with so much memory and so many cores.
    pub fn new(config: &Config, machine_memory: u64, machine_cores: u32) -> Self {
        let places = config.max_workers.max(1) as u64;
        Self {
            memory_bytes: config.memory_budget.map_or(machine_memory / 100 * DEFAULT_MEMORY_PERCENT, |bytes| bytes.as_u64()),
            threads: config.thread_budget,
            threads_per_worker: config.threads.unwrap_or(machine_cores).max(1),
            places,
            // One place at least is somebody else's: alone, a worker has everything anyway.
            second_shares: (config.exclusive_per_key as u64).min(places - 1),
        }
    }

    /// What a process without a class gets.
    pub fn of_spare(&self) -> Grant {
        let share = self.grant(1);
        Grant { memory_bytes: share.memory_bytes.min(SPARE_MEMORY_BYTES), threads: 1, second_share: false }
    }

    /// What a worker of this class gets while so many second shares are taken.
    pub fn of(&self, class: WorkerClass, second_shares_taken: usize) -> Grant {
        match class {
            WorkerClass::Exclusive if self.has_second_share(second_shares_taken) => self.grant(2),
            _ => self.grant(1),
        }
    }

    /// Whether one more exclusive worker may have a second share.
    pub fn has_second_share(&self, taken: usize) -> bool {
        (taken as u64) < self.second_shares
    }

    fn grant(&self, shares: u64) -> Grant {
        let all = self.places + self.second_shares;
        let threads =
            self.threads.map_or(u64::from(self.threads_per_worker), |all_threads| u64::from(all_threads) * shares / all);
        Grant {
            memory_bytes: self.memory_bytes / all * shares,
            threads: u32::try_from(threads).unwrap_or(u32::MAX).clamp(1, self.threads_per_worker),
            second_share: shares == 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(places: u64, second_shares: u64, threads: Option<u32>) -> Budget {
        Budget { memory_bytes: 8 << 30, threads, threads_per_worker: 4, places, second_shares }
    }

    #[test]
    fn the_sum_never_exceeds_the_budget() {
        for places in 1..10 {
            for second_shares in 0..places {
                let budget = budget(places, second_shares, Some(16));
                let mut taken = 0;
                let (mut memory, mut threads) = (0, 0);
                // Nothing but exclusive workers is the most that there can be.
                for _ in 0..places {
                    let grant = budget.of(WorkerClass::Exclusive, taken);
                    taken += usize::from(grant.second_share);
                    memory += grant.memory_bytes;
                    threads += grant.threads;
                }
                assert_eq!(taken as u64, second_shares);
                assert!(memory <= 8 << 30 && memory > 7 << 30, "{places} {second_shares}: {memory}");
                assert!(threads <= 16, "{places} {second_shares}: {threads}");
            }
        }
    }

    #[test]
    fn an_exclusive_worker_gets_twice_a_reader_s_share_and_a_lone_worker_all() {
        let of = budget(6, 2, None);
        let (reader, exclusive) = (of.of(WorkerClass::Reader, 0), of.of(WorkerClass::Exclusive, 1));
        assert_eq!((reader.memory_bytes, exclusive.memory_bytes), (1 << 30, 2 << 30));
        assert_eq!(of.of(WorkerClass::Exclusive, 2).memory_bytes, 1 << 30);
        assert_eq!((reader.threads, exclusive.threads), (4, 4));
        assert_eq!(of.of_spare(), Grant { memory_bytes: SPARE_MEMORY_BYTES, threads: 1, second_share: false });
        assert_eq!(budget(1, 0, None).of(WorkerClass::Reader, 0).memory_bytes, 8 << 30);
        // Fewer threads than a machine has, shared out.
        assert_eq!(budget(6, 2, Some(16)).of(WorkerClass::Reader, 0).threads, 2);
        assert_eq!(budget(6, 2, Some(64)).of(WorkerClass::Exclusive, 0).threads, 4);
    }
}
