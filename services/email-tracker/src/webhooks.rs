//! `webhooks`: what was given up is listed or sent again; a target is tried.

use anyhow::Context as _;
use database::Database;
use recorder::webhooks::{self, SetAside, Webhooks};
use serde_json::json;
use service_kit::{Reader, Setting, SystemClock, program};

use crate::{
    backup::{DatabaseSettings, open_as_recorder},
    commands::WebhooksCommand,
};

/// The settings of `webhooks`, for the table in the documentation.
pub(crate) const SETTINGS: [Setting; 2] = webhooks::SETTINGS;

/// One to find, one to change.
const CONNECTIONS: usize = 2;

/// The whole command.
pub(crate) fn webhooks(command: WebhooksCommand) -> anyhow::Result<()> {
    let mut reader = Reader::from_environment();
    match command {
        WebhooksCommand::List { target } => {
            let settings = DatabaseSettings::read(&mut reader, "email-tracker webhooks");
            let settings = reader.finish(settings)?;
            program::block_on(list(&settings, target.as_deref()))
        }
        WebhooksCommand::Resend { target } => {
            let settings = DatabaseSettings::read(&mut reader, "email-tracker webhooks");
            let settings = reader.finish(settings)?;
            program::block_on(resend(&settings, target.as_deref()))
        }
        WebhooksCommand::Test { target } => {
            let settings = Webhooks::read(&mut reader);
            let settings = reader.finish(settings)?;
            program::block_on(test(&settings, &target))
        }
    }
}

async fn list(settings: &DatabaseSettings, target: Option<&str>) -> anyhow::Result<()> {
    let database = open(settings).await?;
    let listed = webhooks::list(&database, target, print).await;
    listed.context("cannot list what is set aside")
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print(event: &SetAside) {
    let line = json!({
        "target": event.target,
        "type": format!("email.{}", event.kind),
        "email_id": event.email_id,
        "event_id": event.event_id,
        "opened_at": event.opened_at.to_string(),
        "queued_at": event.queued_at.to_string(),
        "set_aside_at": event.set_aside_at.to_string(),
        "problem": event.problem,
    });
    println!("{line}");
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn resend(settings: &DatabaseSettings, target: Option<&str>) -> anyhow::Result<()> {
    let database = open(settings).await?;
    let count = webhooks::resend(&database, target, &SystemClock)
        .await
        .context("cannot have it sent again")?;
    println!("{count} events that were set aside will be sent again");
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn test(settings: &Webhooks, target: &str) -> anyhow::Result<()> {
    settings.test(target, &SystemClock).await?;
    println!("{target} has taken a test message");
    Ok(())
}

async fn open(settings: &DatabaseSettings) -> anyhow::Result<Database> {
    let config = settings.config()?;
    let (database, _) = open_as_recorder(&config, CONNECTIONS).await?;
    Ok(database)
}
