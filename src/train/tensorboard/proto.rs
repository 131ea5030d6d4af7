//! The protobuf message of an event, with the few fields in use.
//!
//! ```text
//! Event           1 wall_time: double · 2 step: int64 · 3 file_version: string · 5 summary: Summary
//! Summary         1 value: repeated Value
//! Value           1 tag: string · 2 simple_value: float · 5 histo: HistogramProto
//! HistogramProto  1 min · 2 max · 3 num · 4 sum · 5 sum_squares: double · 6 bucket_limit · 7 bucket: packed double
//! ```
//!
//! Fields that are not in this table are skipped, as protobuf asks.
//!
//! Source: `tensorflow/core/util/event.proto`, `tensorflow/core/framework/summary.proto` and
//! `histogram.proto`; <https://protobuf.dev/programming-guides/encoding>.

use super::{Event, Histogram, SummaryValue};

/// Faults in the bytes of an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageFault {
    /// A number or a length reaches past the end.
    #[error("field {field} reaches past the end")]
    Truncated {
        /// Number of the field, 0 if the number itself is cut.
        field: u64,
    },
    /// The field has another wire type than it must have.
    #[error("field {field} has wire type {wire_type}")]
    WireType {
        /// Number of the field.
        field: u64,
        /// Wire type of the stored field.
        wire_type: u64,
    },
    /// The bytes of a string are not UTF-8.
    #[error("field {field} is not UTF-8")]
    NotUtf8 {
        /// Number of the field.
        field: u64,
    },
    /// A packed list of 8-byte numbers has another length.
    #[error("field {field} has {num_bytes} bytes, not a multiple of 8")]
    UnevenList {
        /// Number of the field.
        field: u64,
        /// Bytes stored.
        num_bytes: usize,
    },
}

pub(super) fn encode(event: &Event) -> Vec<u8> {
    let mut message = Message::default();
    message.double(1, event.wall_time);
    message.varint_field(2, event.step);
    if let Some(version) = &event.file_version {
        message.bytes(3, version.as_bytes());
    }
    if !event.values.is_empty() {
        let mut summary = Message::default();
        for (tag, value) in &event.values {
            summary.bytes(1, &encode_value(tag, value));
        }
        message.bytes(5, &summary.0);
    }
    message.0
}

pub(super) fn decode(bytes: &[u8]) -> Result<Event, MessageFault> {
    let mut event = Event::default();
    for_each_field(bytes, |field| {
        match field.number {
            1 => event.wall_time = field.double()?,
            2 => event.step = field.varint()?,
            3 => event.file_version = Some(field.text()?),
            5 => decode_summary(field.bytes()?, &mut event.values)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(event)
}

fn encode_value(tag: &str, value: &SummaryValue) -> Vec<u8> {
    let mut message = Message::default();
    message.bytes(1, tag.as_bytes());
    match value {
        SummaryValue::Scalar(number) => message.float(2, *number),
        SummaryValue::Histogram(histogram) => message.bytes(5, &encode_histogram(histogram)),
    }
    message.0
}

fn encode_histogram(histogram: &Histogram) -> Vec<u8> {
    let mut message = Message::default();
    message.double(1, histogram.min);
    message.double(2, histogram.max);
    message.double(3, histogram.num);
    message.double(4, histogram.sum);
    message.double(5, histogram.sum_squares);
    message.doubles(6, &histogram.bucket_limits);
    message.doubles(7, &histogram.buckets);
    message.0
}

fn decode_summary(
    bytes: &[u8],
    values: &mut Vec<(String, SummaryValue)>,
) -> Result<(), MessageFault> {
    for_each_field(bytes, |field| {
        if field.number == 1 {
            values.extend(decode_value(field.bytes()?)?);
        }
        Ok(())
    })
}

/// `None` for a kind of value that is never written here: images, audio, tensors.
fn decode_value(bytes: &[u8]) -> Result<Option<(String, SummaryValue)>, MessageFault> {
    let mut tag = String::new();
    let mut value = None;
    for_each_field(bytes, |field| {
        match field.number {
            1 => tag = field.text()?,
            2 => value = Some(SummaryValue::Scalar(field.float()?)),
            5 => value = Some(SummaryValue::Histogram(decode_histogram(field.bytes()?)?)),
            _ => {}
        }
        Ok(())
    })?;
    Ok(value.map(|value| (tag, value)))
}

fn decode_histogram(bytes: &[u8]) -> Result<Histogram, MessageFault> {
    let mut histogram = Histogram::default();
    for_each_field(bytes, |field| {
        match field.number {
            1 => histogram.min = field.double()?,
            2 => histogram.max = field.double()?,
            3 => histogram.num = field.double()?,
            4 => histogram.sum = field.double()?,
            5 => histogram.sum_squares = field.double()?,
            6 => histogram.bucket_limits = field.doubles()?,
            7 => histogram.buckets = field.doubles()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(histogram)
}

#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.0.push(number.to_le_bytes()[0]);
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.varint(field << 3 | wire_type);
    }

    fn varint_field(&mut self, field: u64, number: u64) {
        self.key(field, 0);
        self.varint(number);
    }

    fn double(&mut self, field: u64, number: f64) {
        self.key(field, 1);
        self.0.extend(number.to_le_bytes());
    }

    fn float(&mut self, field: u64, number: f32) {
        self.key(field, 5);
        self.0.extend(number.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.key(field, 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn doubles(&mut self, field: u64, numbers: &[f64]) {
        self.key(field, 2);
        self.varint(size_of_val(numbers) as u64);
        self.0
            .extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    }
}

struct ProtoField<'a> {
    number: u64,
    payload: Payload<'a>,
}

enum Payload<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    Bytes(&'a [u8]),
}

impl<'a> ProtoField<'a> {
    /// The first field and the bytes after it.
    fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), MessageFault> {
        let (key, rest) = split_varint(bytes).ok_or(MessageFault::Truncated { field: 0 })?;
        let (number, wire_type) = (key >> 3, key & 7);
        let split = match wire_type {
            0 => split_varint(rest).map(|(number, rest)| (Payload::Varint(number), rest)),
            1 => rest
                .split_first_chunk()
                .map(|(chunk, rest)| (Payload::Fixed64(*chunk), rest)),
            2 => split_bytes(rest).map(|(bytes, rest)| (Payload::Bytes(bytes), rest)),
            5 => rest
                .split_first_chunk()
                .map(|(chunk, rest)| (Payload::Fixed32(*chunk), rest)),
            _ => {
                return Err(MessageFault::WireType {
                    field: number,
                    wire_type,
                });
            }
        };
        let (payload, rest) = split.ok_or(MessageFault::Truncated { field: number })?;
        Ok((Self { number, payload }, rest))
    }

    fn varint(&self) -> Result<u64, MessageFault> {
        match self.payload {
            Payload::Varint(number) => Ok(number),
            _ => Err(self.wrong_wire_type()),
        }
    }

    fn double(&self) -> Result<f64, MessageFault> {
        match self.payload {
            Payload::Fixed64(bytes) => Ok(f64::from_le_bytes(bytes)),
            _ => Err(self.wrong_wire_type()),
        }
    }

    fn float(&self) -> Result<f32, MessageFault> {
        match self.payload {
            Payload::Fixed32(bytes) => Ok(f32::from_le_bytes(bytes)),
            _ => Err(self.wrong_wire_type()),
        }
    }

    fn bytes(&self) -> Result<&'a [u8], MessageFault> {
        match self.payload {
            Payload::Bytes(bytes) => Ok(bytes),
            _ => Err(self.wrong_wire_type()),
        }
    }

    fn text(&self) -> Result<String, MessageFault> {
        let field = self.number;
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| MessageFault::NotUtf8 { field })
    }

    fn doubles(&self) -> Result<Vec<f64>, MessageFault> {
        let bytes = self.bytes()?;
        let (chunks, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(MessageFault::UnevenList {
                field: self.number,
                num_bytes: bytes.len(),
            });
        }
        Ok(chunks
            .iter()
            .map(|chunk| f64::from_le_bytes(*chunk))
            .collect())
    }

    fn wrong_wire_type(&self) -> MessageFault {
        let wire_type = match self.payload {
            Payload::Varint(_) => 0,
            Payload::Fixed64(_) => 1,
            Payload::Bytes(_) => 2,
            Payload::Fixed32(_) => 5,
        };
        MessageFault::WireType {
            field: self.number,
            wire_type,
        }
    }
}

fn for_each_field<'a>(
    mut bytes: &'a [u8],
    mut visit: impl FnMut(ProtoField<'a>) -> Result<(), MessageFault>,
) -> Result<(), MessageFault> {
    while !bytes.is_empty() {
        let (field, rest) = ProtoField::split(bytes)?;
        visit(field)?;
        bytes = rest;
    }
    Ok(())
}

/// `None` if the bytes end within the number, or it has more than 64 bits.
fn split_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (byte_idx, &byte) in bytes.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f) << (7 * byte_idx);
        if byte < 0x80 {
            return Some((number, &bytes[byte_idx + 1..]));
        }
    }
    None
}

fn split_bytes(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = split_varint(bytes)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}
