//! GPTQ: transposed matrices of integers around 0, which vLLM and every older reader of GPTQ load.

mod card;
mod limits;
mod read;
mod write;

use self::limits::LIMITS;
use super::read::FolderReader;
use super::{Codes, FormatSpec, Writer};

pub(super) static FORMAT: FormatSpec = FormatSpec {
    holds_mixed_widths: false,
    holds_rounded_inputs: false,
    writer: Writer::Codes(Codes {
        limits: |schemes, dtype, config| LIMITS.refusal(schemes, dtype, config),
        encode: write::encode,
        describe: write::describe,
    }),
    reader: Some(FolderReader {
        method: Some("gptq"),
        open: read::open,
    }),
    card: card::CARD,
};
