//! What the kernel says of a process.

use std::{fs, time::Duration};

use anyhow::{Context, ensure};

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    /// What it has now.
    pub(super) resident: u64,
    /// The most it has had since it was started, or since [`forget_peak`].
    pub(super) peak: u64,
}

/// The memory of the process `id`.
pub(super) fn memory(id: u32) -> anyhow::Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).context("a process that runs")?;
    let kibibytes = |name: &str| -> anyhow::Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        number
            .with_context(|| format!("{name} of a process"))?
            .parse()
            .context("a number")
    };
    let memory = Memory {
        resident: kibibytes("VmRSS:")? * 1_024,
        peak: kibibytes("VmHWM:")? * 1_024,
    };
    ensure!(memory.peak > 0, "a process without memory");
    Ok(memory)
}

/// Makes the peak of the process `id` what it has now.
pub(super) fn forget_peak(id: u32) -> anyhow::Result<()> {
    fs::write(format!("/proc/{id}/clear_refs"), "5").context("resetting a process's peak of memory")
}

/// The time that the process `id` and its children that still run have spent on the processors.
pub(super) fn cpu_time(id: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).context("a process that runs")?;
    // The name, in brackets, may hold anything; user and system time are the twelfth and thirteenth field behind it.
    let (_, behind_name) = stat.rsplit_once(") ").context("a process's times")?;
    let ticks: u64 = behind_name
        .split(' ')
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().context("a number"))
        .sum::<anyhow::Result<u64>>()?;
    let own = Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second());
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    children
        .split_whitespace()
        .map(|child| cpu_time(child.parse().context("a process's number")?))
        .try_fold(own, |sum, of_child| Ok(sum + of_child?))
}
