//! Rows by binary COPY.

use std::pin::Pin;

use bytes::{BufMut, Bytes};
use futures::SinkExt;
use postgres_types::{IsNull, ToSql, Type, private::BytesMut};
use tokio_postgres::{CopyInSink, Statement};

use crate::{Error, Transaction};

/// How many bytes of rows are sent at once. The driver's own writer sends four thousand, and hands each such piece from one
/// task to another; a batch of a thousand hits has seventy of them.
const PIECE_BYTES: usize = 128 << 10;

/// What a binary COPY begins with: its signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What it ends with.
const END: i16 = -1;

/// A `copy … from stdin with (format binary)` under way. Dropped before [`finish`](Self::finish), it fails.
pub struct CopyIn<'a> {
    sink: Pin<Box<CopyInSink<Bytes>>>,
    types: &'a [Type],
    bytes: BytesMut,
}

impl<'a> CopyIn<'a> {
    /// Begins one, of rows whose columns have these types.
    pub async fn begin(
        tx: &Transaction<'_>,
        statement: &Statement,
        types: &'a [Type],
    ) -> Result<Self, Error> {
        let sink = Box::pin(tx.copy_in(statement).await?);
        let mut bytes = BytesMut::with_capacity(PIECE_BYTES);
        bytes.put_slice(HEADER);
        Ok(Self { sink, types, bytes })
    }

    /// Writes a row, of as many values as there are types.
    pub async fn row(&mut self, values: &[&(dyn ToSql + Sync)]) -> Result<(), Error> {
        encode(&mut self.bytes, self.types, values)?;
        if self.bytes.len() >= PIECE_BYTES {
            let piece = self.bytes.split().freeze();
            self.sink.feed(piece).await?;
        }
        Ok(())
    }

    /// Ends it; gives how many rows were stored.
    pub async fn finish(mut self) -> Result<u64, Error> {
        self.bytes.put_i16(END);
        self.sink.feed(self.bytes.freeze()).await?;
        Ok(self.sink.as_mut().finish().await?)
    }
}

fn encode(bytes: &mut BytesMut, types: &[Type], values: &[&(dyn ToSql + Sync)]) -> Result<(), Error> {
    let columns = i16::try_from(types.len())
        .ok()
        .filter(|_| types.len() == values.len());
    bytes.put_i16(
        columns.ok_or_else(|| Error::unexpected("a row with another number of values than columns"))?,
    );
    for (kind, value) in types.iter().zip(values) {
        let at = bytes.len();
        bytes.put_i32(-1); // null, unless something follows
        let encoded = value.to_sql_checked(kind, bytes);
        // What the error says may hold the value.
        let encoded =
            encoded.map_err(|_| Error::unexpected(format!("a value that cannot be stored as {kind}")))?;
        if let IsNull::No = encoded {
            let length = i32::try_from(bytes.len() - at - 4)
                .map_err(|_| Error::unexpected("a value of more than two gigabytes"))?;
            if let Some(place) = bytes.get_mut(at..at + 4) {
                place.copy_from_slice(&length.to_be_bytes());
            }
        }
    }
    Ok(())
}
