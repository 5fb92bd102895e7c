//! What Redis does in one step. Each script runs atomically: a consumer or a Redis that dies
//! leaves either all of it or none.
//!
//! What a consumer holds is a hash, `<sequence>:<deliveries>` → job. So ending a job is O(1)
//! whatever its size, jobs with equal bytes are told apart, and a receipt names one delivery.

use redis::Script;

/// The scripts, hashed once.
pub(super) struct Scripts {
    /// Moves jobs from the queue into the consumer's hash, and says that it lives.
    pub(super) take: Script,
    /// Moves jobs out of a hash, a dead consumer's or its own of a former life.
    pub(super) reclaim: Script,
    /// Records a result and forgets the job, if the consumer still has it.
    pub(super) ack: Script,
    /// Moves a job to the dead letters, if the consumer still has it.
    pub(super) reject: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            take: Script::new(TAKE),
            reclaim: Script::new(RECLAIM),
            ack: Script::new(ACK),
            reject: Script::new(REJECT),
        }
    }
}

/// KEYS: queue, own hash, sequence, consumers, own heartbeat.
/// ARGV: own id, lease in ms, most jobs, most bytes in all, most bytes of one, bytes of a prefix.
/// Returns field, size and body (or its prefix) of each.
const TAKE: &str = "
redis.call('SET', KEYS[5], '1', 'PX', ARGV[2])
redis.call('SADD', KEYS[4], ARGV[1])
local out, taken, bytes = {}, 0, 0
while taken < tonumber(ARGV[3]) and bytes < tonumber(ARGV[4]) do
  local body = redis.call('RPOP', KEYS[1])
  if not body then break end
  local field = redis.call('INCR', KEYS[3]) .. ':1'
  redis.call('HSET', KEYS[2], field, body)
  local size = #body
  if size > tonumber(ARGV[5]) then body = string.sub(body, 1, tonumber(ARGV[6])) end
  taken, bytes = taken + 1, bytes + #body
  out[#out + 1] = field
  out[#out + 1] = size
  out[#out + 1] = body
end
return out
";

/// KEYS: hash to take from, heartbeat of its owner, own hash, consumers.
/// ARGV: owner, most jobs, most bytes in all, most bytes of one, bytes of a prefix, fields (all
/// when none is given). Returns the same as TAKE, or false when the owner lives.
const RECLAIM: &str = "
local own = KEYS[1] == KEYS[3]
if not own and redis.call('EXISTS', KEYS[2]) == 1 then return false end
local fields = {}
for i = 6, #ARGV do fields[#fields + 1] = ARGV[i] end
if #fields == 0 then
  fields = redis.call('HKEYS', KEYS[1])
  table.sort(fields, function(a, b)
    return tonumber(string.match(a, '^%d+')) < tonumber(string.match(b, '^%d+'))
  end)
  if #fields == 0 and not own then redis.call('SREM', KEYS[4], ARGV[1]) end
end
local out, taken, bytes = {}, 0, 0
for _, field in ipairs(fields) do
  if taken >= tonumber(ARGV[2]) or bytes >= tonumber(ARGV[3]) then break end
  local body = redis.call('HGET', KEYS[1], field)
  if body then
    local sequence, deliveries = string.match(field, '^(%d+):(%d+)$')
    local again = sequence .. ':' .. string.format('%d', tonumber(deliveries) + 1)
    redis.call('HDEL', KEYS[1], field)
    redis.call('HSET', KEYS[3], again, body)
    local size = #body
    if size > tonumber(ARGV[4]) then body = string.sub(body, 1, tonumber(ARGV[5])) end
    taken, bytes = taken + 1, bytes + #body
    out[#out + 1] = again
    out[#out + 1] = size
    out[#out + 1] = body
  end
end
return out
";

/// KEYS: own hash, result, metrics. ARGV: field, result, its TTL in s, line of metrics or empty,
/// lines to keep. Returns 1, or 0 when somebody else has the job.
const ACK: &str = "
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
if ARGV[4] ~= '' then
  redis.call('RPUSH', KEYS[3], ARGV[4])
  redis.call('LTRIM', KEYS[3], -tonumber(ARGV[5]), -1)
end
return 1
";

/// KEYS: own hash, dead letters. ARGV: field, letter, letters to keep.
/// Returns 1, or 0 when somebody else has the job.
const REJECT: &str = "
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[2])
redis.call('LTRIM', KEYS[2], 0, tonumber(ARGV[3]) - 1)
return 1
";
