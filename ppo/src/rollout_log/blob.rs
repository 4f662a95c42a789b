//! Arrays and sampling settings as bytes.
//!
//! Token ids and log-probs are little-endian arrays of 4-byte numbers: a thousand tokens are 4 KB a column, read back with
//! one copy, bit for bit. Sampling settings are a versioned record: fields in the order of the struct, texts and lists
//! prefixed with their length. Not JSON, because a float must return with the very bits it left with.

use policy::{LogProb, PolicyVersion, SampledToken, SamplingParams, TokenId};

/// First byte of a sampling record in today's layout.
const SAMPLING_LAYOUT: u8 = 2;
/// The layout before constraints were noted: it ends one byte earlier.
const SAMPLING_LAYOUT_BEFORE: u8 = 1;

/// Token ids, 4 bytes each, little-endian.
pub(super) fn token_ids(tokens: impl Iterator<Item = TokenId>) -> Vec<u8> {
    tokens.flat_map(|token| token.0.to_le_bytes()).collect()
}

/// Numbers, 4 bytes each, little-endian.
pub(super) fn floats(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(f32::to_le_bytes).collect()
}

/// The inverse of [`token_ids`]; an error names what is wrong with the length.
pub(super) fn parse_token_ids(bytes: &[u8]) -> Result<Vec<TokenId>, String> {
    Ok(words(bytes)?.map(|word| TokenId(u32::from_le_bytes(word))).collect())
}

/// The inverse of [`floats`].
pub(super) fn parse_floats(bytes: &[u8]) -> Result<Vec<f32>, String> {
    Ok(words(bytes)?.map(f32::from_le_bytes).collect())
}

/// Versions, 8 bytes each, little-endian.
pub(super) fn versions(versions: &[PolicyVersion]) -> Vec<u8> {
    versions.iter().flat_map(|version| version.0.to_le_bytes()).collect()
}

/// The inverse of [`versions`].
pub(super) fn parse_versions(bytes: &[u8]) -> Result<Vec<PolicyVersion>, String> {
    if !bytes.len().is_multiple_of(8) {
        return Err(format!("expected a multiple of 8 bytes, found {}", bytes.len()));
    }
    let version = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("chunks_exact(8) yields 8 bytes"));
    Ok(bytes.chunks_exact(8).map(|bytes| PolicyVersion(version(bytes))).collect())
}

fn words(bytes: &[u8]) -> Result<impl Iterator<Item = [u8; 4]> + '_, String> {
    if !bytes.len().is_multiple_of(4) {
        return Err(format!("expected a multiple of 4 bytes, found {}", bytes.len()));
    }
    Ok(bytes.chunks_exact(4).map(|word| word.try_into().expect("chunks_exact(4) yields 4 bytes")))
}

/// The four columns of a response.
pub(super) struct ResponseColumns {
    pub(super) ids: Vec<u8>,
    pub(super) log_probs: Vec<u8>,
    pub(super) behavior: Vec<u8>,
    /// `None` when no token was drawn from a truncated distribution, which is the usual case.
    pub(super) log_kept_mass: Option<Vec<u8>>,
}

impl ResponseColumns {
    pub(super) fn of(response: &[SampledToken]) -> ResponseColumns {
        let truncated = response.iter().any(|token| token.log_kept_mass != 0.0);
        ResponseColumns {
            ids: token_ids(response.iter().map(|token| token.id)),
            log_probs: floats(response.iter().map(|token| token.log_prob.0)),
            behavior: floats(response.iter().map(|token| token.behavior.0)),
            log_kept_mass: truncated.then(|| floats(response.iter().map(|token| token.log_kept_mass))),
        }
    }

    pub(super) fn parse(&self) -> Result<Vec<SampledToken>, String> {
        let ids = parse_token_ids(&self.ids)?;
        let log_probs = parse_floats(&self.log_probs)?;
        let behavior = parse_floats(&self.behavior)?;
        let kept = match &self.log_kept_mass {
            Some(bytes) => parse_floats(bytes)?,
            None => vec![0.0; ids.len()],
        };
        if [log_probs.len(), behavior.len(), kept.len()] != [ids.len(); 3] {
            return Err(format!(
                "expected {} numbers a column, found {}, {}, {}",
                ids.len(),
                log_probs.len(),
                behavior.len(),
                kept.len()
            ));
        }
        let columns = ids.into_iter().zip(log_probs).zip(behavior).zip(kept);
        Ok(columns
            .map(|(((id, log_prob), behavior), log_kept_mass)| SampledToken {
                id,
                log_prob: LogProb(log_prob),
                behavior: LogProb(behavior),
                log_kept_mass,
            })
            .collect())
    }
}

/// Sampling settings as a versioned record.
pub(super) fn sampling(params: &SamplingParams) -> Vec<u8> {
    let mut bytes = vec![SAMPLING_LAYOUT];
    bytes.extend(params.temperature.to_le_bytes());
    bytes.extend(params.top_k.to_le_bytes());
    for value in
        [params.top_p, params.min_p, params.presence_penalty, params.frequency_penalty, params.repetition_penalty]
    {
        bytes.extend(value.to_le_bytes());
    }
    put_len(&mut bytes, params.logit_bias.len());
    for (token, bias) in &params.logit_bias {
        bytes.extend(token.0.to_le_bytes());
        bytes.extend(bias.to_le_bytes());
    }
    bytes.push(u8::from(params.seed.is_some()));
    bytes.extend(params.seed.unwrap_or(0).to_le_bytes());
    bytes.extend(params.max_tokens.to_le_bytes());
    bytes.extend(params.min_tokens.to_le_bytes());
    put_len(&mut bytes, params.stop.len());
    for text in &params.stop {
        put_len(&mut bytes, text.len());
        bytes.extend(text.as_bytes());
    }
    put_len(&mut bytes, params.stop_token_ids.len());
    bytes.extend(token_ids(params.stop_token_ids.iter().copied()));
    bytes.push(u8::from(params.ignore_eos));
    bytes.push(u8::from(params.constrained));
    bytes
}

/// The inverse of [`sampling`].
pub(super) fn parse_sampling(bytes: &[u8]) -> Result<SamplingParams, String> {
    let mut reader = Reader(bytes);
    let layout = reader.array::<1>()?[0];
    if ![SAMPLING_LAYOUT, SAMPLING_LAYOUT_BEFORE].contains(&layout) {
        return Err(format!("sampling layout: expected {SAMPLING_LAYOUT}, found {layout}"));
    }
    let params = SamplingParams {
        temperature: reader.float()?,
        top_k: reader.word()?,
        top_p: reader.float()?,
        min_p: reader.float()?,
        presence_penalty: reader.float()?,
        frequency_penalty: reader.float()?,
        repetition_penalty: reader.float()?,
        logit_bias: reader.list(|r| Ok((TokenId(r.word()?), r.float()?)))?,
        seed: reader.seed()?,
        max_tokens: reader.word()?,
        min_tokens: reader.word()?,
        stop: reader.list(Reader::text)?,
        stop_token_ids: reader.list(|r| Ok(TokenId(r.word()?)))?,
        ignore_eos: reader.array::<1>()?[0] != 0,
        constrained: layout == SAMPLING_LAYOUT && reader.array::<1>()?[0] != 0,
    };
    if reader.0.is_empty() { Ok(params) } else { Err(format!("sampling record: {} bytes too many", reader.0.len())) }
}

fn put_len(bytes: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("request limits keep lists and texts far below 4 GiB");
    bytes.extend(len.to_le_bytes());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (head, tail) =
            self.0.split_at_checked(len).ok_or_else(|| format!("record ends {} bytes early", len - self.0.len()))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N)?.try_into().expect("take(N) yields N bytes"))
    }

    fn word(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn float(&mut self) -> Result<f32, String> {
        Ok(f32::from_le_bytes(self.array()?))
    }

    fn seed(&mut self) -> Result<Option<u64>, String> {
        let present = self.array::<1>()?[0] != 0;
        let seed = u64::from_le_bytes(self.array()?);
        Ok(present.then_some(seed))
    }

    fn text(&mut self) -> Result<String, String> {
        let len = self.word()? as usize;
        String::from_utf8(self.take(len)?.to_vec()).map_err(|error| error.to_string())
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, String>) -> Result<Vec<T>, String> {
        let len = self.word()?;
        (0..len).map(|_| item(self)).collect()
    }
}
