//! `spool`: looks into a spool that no pixel uses, and delivers it.

use std::{
    io::{self, Write as _},
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, bail};
use pixel::{
    Delivered, RecorderSettings, deliver,
    spool::{Folder, SetAsideFact, files::DiskFiles},
};
use recorder_api::v1;
use serde_json::{Value, json};
use service_kit::{Common, Metrics, Reader, SystemClock, program, tasks::stop_on_signal, telemetry};
use tracking::{Fact, Timestamp};

use crate::commands::SpoolCommand;

/// The whole command.
pub(crate) fn spool(command: SpoolCommand) -> anyhow::Result<()> {
    match command {
        SpoolCommand::List { folder } => list(&open(&folder)?.into_reader()),
        SpoolCommand::Resend { folder } => deliver(&folder, What::SetAside),
        SpoolCommand::Drain { folder } => deliver(&folder, What::Unsent),
    }
}

fn open(folder: &Path) -> anyhow::Result<Folder> {
    // Opening makes a spool where there is none, which is not what somebody who looks for one wants.
    if !folder.is_dir() {
        bail!("there is no folder {}", folder.display());
    }
    Ok(Folder::open(folder, Arc::new(DiskFiles))?)
}

/// One line of JSON for each fact that is set aside, oldest first; how many there are on standard error.
fn list(reader: &pixel::spool::Reader) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let mut listed = 0_u64;
    let mut written = Ok(());
    let mut each = |kept: SetAsideFact| {
        if written.is_ok() {
            written = writeln!(out, "{}", described(&kept));
            listed += 1;
        }
    };
    reader
        .for_each_set_aside(&mut each)
        .context("cannot read what is set aside")?;
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error).context("cannot write"),
        _ => {}
    }
    note(&format!("{listed} set aside, {} unsent", reader.holds().unsent));
    Ok(())
}

fn described(kept: &SetAsideFact) -> Value {
    let fact = v1::Fact::from_bytes(&kept.fact).and_then(Fact::try_from);
    let fact = match fact {
        Ok(Fact::Hit(hit)) => json!({
            "hit": hit.event_id.to_string(),
            "opened_at": hit.opened_at.to_string(),
            "email_id": hit.token.email_id,
            "recipient": hit.token.recipient,
            "ip_address": hit.client_address.to_string(),
            "user_agent": hit.user_agent,
        }),
        Ok(Fact::Mark(mark)) => json!({
            "mark": mark.mark_id.to_string(),
            "marked_at": mark.marked_at.to_string(),
            "email_id": mark.email_id,
            "ip_address": mark.client_address.to_string(),
            "user_agent": mark.user_agent,
        }),
        Err(error) => json!({ "unreadable": error.to_string(), "bytes": kept.fact.len() }),
    };
    json!({ "reason": kept.reason, "set_aside_at": Timestamp::from_millis(kept.at_ms).to_string(), "fact": fact })
}

/// What is to be delivered.
#[derive(Clone, Copy)]
enum What {
    SetAside,
    Unsent,
}

fn deliver(folder: &Path, what: What) -> anyhow::Result<()> {
    let mut reader = Reader::from_environment();
    let settings = (
        RecorderSettings::read(&mut reader),
        Common::read(&mut reader, 0, 0),
    );
    let (recorder, common) = reader.finish(settings)?;
    let delivered = program::block_on(async {
        let give_up = stop_on_signal()?;
        let folder = open(folder)?;
        // The forwarder says in the log what it waits for.
        let _logging = telemetry::logging(crate::NAME, &common)?;
        let metrics = Metrics::new(crate::NAME)?;
        let clock = Arc::new(SystemClock);
        anyhow::Ok(match what {
            What::SetAside => deliver::resend(folder, &recorder, clock, metrics.meter(), give_up)
                .await
                .context("cannot read what is set aside")?,
            What::Unsent => deliver::drain(folder, &recorder, clock, metrics.meter(), give_up).await,
        })
    })?;
    report(delivered)
}

fn report(delivered: Delivered) -> anyhow::Result<()> {
    let Delivered {
        recorded,
        already_known,
        erased,
        set_aside,
        lost,
        left,
    } = delivered;
    note(&format!(
        "{recorded} recorded, {already_known} already known, {erased} of erased emails and dropped, {set_aside} refused and set \
         aside, {lost} refused and lost, {left} left"
    ));
    if left > 0 || lost > 0 {
        bail!("not everything was delivered");
    }
    Ok(())
}

#[expect(
    clippy::print_stderr,
    reason = "for the operator; standard output is for facts"
)]
fn note(text: &str) {
    eprintln!("{text}");
}
