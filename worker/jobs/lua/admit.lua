-- Admits one job, or nothing: row, queue entry and indexes are written together.
-- ARGV: id, tenant, fingerprint, hash of the idempotency key or '', '1' for a declared retry,
--       depth cap, tenant cap, queue list, set of queue lists, queue entry, '1' for the front,
--       number of row arguments, row fields and values, queue entry fields and values
-- Returns {created | replay | conflict | queue_full | tenant_full, id}.
local id, tenant, fp, idem, retry = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local depth_cap, tenant_cap = tonumber(ARGV[6]), tonumber(ARGV[7])
local queue, queues, entry, front = ARGV[8], ARGV[9], ARGV[10], ARGV[11]
local FIRST = 13
local after_row = FIRST + tonumber(ARGV[12])

local idem_key = IDEMPOTENCY .. tenant .. ':' .. idem
local fp_key = FINGERPRINT .. tenant .. ':' .. fp
local active, index = TENANT .. tenant .. TENANT_ACTIVE, TENANT .. tenant .. TENANT_JOBS

local function usable(known)
  return redis.call('HEXISTS', JOB .. known, 'params') == 1 and field(known, 'deleted') ~= '1'
end

if redis.call('EXISTS', JOB .. id) == 1 then
  return { 'created', id }
end
if idem ~= '' then
  local known = redis.call('GET', idem_key)
  if known then
    local known_id, known_fp = string.match(known, '^(%S+) (.*)$')
    if known_fp ~= fp then
      return { 'conflict', known_id }
    end
    if usable(known_id) then
      return { 'replay', known_id }
    end
  end
elseif retry == '1' then
  local known = redis.call('GET', fp_key)
  if known and usable(known) then
    return { 'replay', known }
  end
end
if redis.call('SCARD', active) >= tenant_cap then
  return { 'tenant_full', id }
end
if redis.call('LLEN', queue) >= depth_cap then
  return { 'queue_full', id }
end

local at = now()
local row = { unpack(ARGV, FIRST, after_row - 1) }
redis.call('HSET', JOB .. id, 'created_at', stamp(at), unpack(row))
redis.call('HSET', JOB .. id, 'queue_deadline', stamp(at + tonumber(field(id, 'queue_deadline_s'))))
redis.call('HSET', entry, unpack(ARGV, after_row))
redis.call('SADD', queues, queue)
redis.call('SADD', LIVE, id)
redis.call('SADD', active, id)
-- Rows expire by themselves; the index forgets its two oldest then, so that it never only grows.
for _, oldest in ipairs(redis.call('ZRANGE', index, 0, 1)) do
  if redis.call('EXISTS', JOB .. oldest) == 0 then
    redis.call('ZREM', index, oldest)
  end
end
redis.call('ZADD', index, stamp(at), id)
if idem ~= '' then
  redis.call('SET', idem_key, id .. ' ' .. fp, 'EX', DAY)
end
redis.call('SET', fp_key, id, 'EX', 900)
redis.call(front == '1' and 'LPUSH' or 'RPUSH', queue, id)
emit(id, 'queued')
return { 'created', id }
