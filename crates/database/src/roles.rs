//! The roles of the services, and what each may do.

use std::fmt;

use postgres_protocol::password::scram_sha_256;
use tokio_postgres::{Client, error::SqlState};

use crate::{Error, InStatement};

/// The recorder's role: reads and writes the facts, adds and drops partitions of hits, owns nothing.
pub const RECORDER_ROLE: &str = "email_tracker_recorder";
/// The dashboard's role: reads.
pub const DASHBOARD_ROLE: &str = "email_tracker_dashboard";

/// Others may be changing roles of the same server, from another database.
const ATTEMPTS: u32 = 20;

/// Passwords that the roles get. A role without one is left out if it does not exist (a set-up with one login for
/// everything needs no roles), and only gets its grants if it does (an owner that may not create roles).
#[derive(Clone, Default)]
pub struct RolePasswords {
    /// Of [`RECORDER_ROLE`].
    pub recorder: Option<String>,
    /// Of [`DASHBOARD_ROLE`].
    pub dashboard: Option<String>,
}

impl fmt::Debug for RolePasswords {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RolePasswords(redacted)")
    }
}

pub(crate) async fn apply(client: &mut Client, passwords: &RolePasswords) -> Result<(), Error> {
    for attempt in 1.. {
        match apply_once(client, passwords).await {
            Err(error) if attempt < ATTEMPTS && is_collision(&error) => {
                tokio::time::sleep(std::time::Duration::from_millis(u64::from(5 * attempt))).await;
            }
            done => return done,
        }
    }
    Ok(())
}

/// Roles belong to the server, and two changes of one at once make one of them fail with "tuple concurrently updated",
/// or with a duplicate key when both create it.
fn is_collision(error: &Error) -> bool {
    error.is_transient()
        || matches!(
            error.sqlstate(),
            Some(&SqlState::INTERNAL_ERROR | &SqlState::UNIQUE_VIOLATION | &SqlState::DUPLICATE_OBJECT)
        )
}

async fn apply_once(client: &mut Client, passwords: &RolePasswords) -> Result<(), Error> {
    let tx = client.transaction().await?;
    // `announce_hits_partitions` grants as well, and would fail by these.
    tx.batch_execute("select pg_advisory_xact_lock(hashtext('add_hits_partition'))")
        .await
        .in_statement("take_turns_with_recorders")?;
    for (role, password, grants) in [
        (RECORDER_ROLE, &passwords.recorder, GRANTS_OF_RECORDER),
        (DASHBOARD_ROLE, &passwords.dashboard, GRANTS_OF_DASHBOARD),
    ] {
        let exists: bool = tx
            .query_one(
                "select exists (select from pg_roles where rolname = $1)",
                &[&role],
            )
            .await
            .in_statement("find_role")?
            .try_get(0)?;
        let password = password.as_deref().filter(|password| !password.is_empty());
        if let Some(password) = password {
            // The server gets, and may log, the verifier only.
            let verb = if exists { "alter" } else { "create" };
            let verifier = scram_sha_256(password.as_bytes());
            tx.batch_execute(&format!("{verb} role {role} with login password '{verifier}'"))
                .await
                .in_statement("set_role_password")?;
            if role == DASHBOARD_ROLE {
                tx.batch_execute(&format!(
                    "alter role {role} set default_transaction_read_only = on"
                ))
                .await
                .in_statement("make_role_read_only")?;
            }
        }
        if exists || password.is_some() {
            tx.batch_execute(grants).await.in_statement("grant_to_role")?;
        }
    }
    Ok(tx.commit().await?)
}

const GRANTS_OF_RECORDER: &str = "
do $$
declare relation regclass;
begin
  execute format('grant connect on database %I to email_tracker_recorder', current_database());
  grant usage on schema public to email_tracker_recorder;
  for relation in
    select oid from pg_class
    where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v') and not relispartition
      and pg_has_role(relowner, 'usage')
  loop
    execute format('grant select, insert, update, delete on %s to email_tracker_recorder', relation);
  end loop;
  revoke insert, update, delete on refinery_schema_history, erasure_keys from email_tracker_recorder;
  revoke update, delete on erased_emails from email_tracker_recorder;
  grant usage on sequence hit_ids, webhook_numbers to email_tracker_recorder;
  grant execute on function
    add_hits_partition(timestamptz), announce_hits_partitions(boolean), drop_hits_partition(timestamptz)
    to email_tracker_recorder;
end
$$";

const GRANTS_OF_DASHBOARD: &str = "
do $$
declare relation regclass;
begin
  execute format('grant connect on database %I to email_tracker_dashboard', current_database());
  grant usage on schema public to email_tracker_dashboard;
  for relation in
    select oid from pg_class
    where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v') and not relispartition
      and pg_has_role(relowner, 'usage')
  loop
    execute format('grant select on %s to email_tracker_dashboard', relation);
  end loop;
  revoke select on erasure_keys, erased_emails from email_tracker_dashboard;
end
$$";
