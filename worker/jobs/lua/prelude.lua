-- Prepended to every script, after the key names. Time is the server's. Every script may be
-- repeated with the same arguments: clients resend a command whose reply was lost.

local MAX_EVENTS = 300
local DAY = 86400

-- What an event carries of the row; row.MOMENT in Python is the same list.
local MOMENT = {
  'state', 'stage', 'step', 'total', 'progress', 'eta', 'attempt', 'retries_left', 'cancel',
  'worker', 'started_at', 'completed_at', 'expires_at', 'reported_at', 'result', 'error',
  'shot', 'shot_done',
}

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1e6
end

local function stamp(time)
  return string.format('%.6f', time)
end

-- One field of the row, or false.
local function field(id, name)
  return redis.call('HGET', JOB .. id, name)
end

-- Every change of state: next number, one event, one wake-up call.
local function emit(id, kind)
  local entry = { 'seq', redis.call('HINCRBY', JOB .. id, 'seq', 1), 'type', kind, 'at', stamp(now()) }
  local values = redis.call('HMGET', JOB .. id, unpack(MOMENT))
  for i, name in ipairs(MOMENT) do
    if values[i] and values[i] ~= '' then
      entry[#entry + 1] = name
      entry[#entry + 1] = values[i]
    end
  end
  redis.call('XADD', EVENTS .. id, 'MAXLEN', '~', MAX_EVENTS, '*', unpack(entry))
  redis.call('PUBLISH', WAKE, id)
end

-- What stays of a deleted job for a day: that it existed, and whose it was.
local function bury(id)
  redis.call('HDEL', JOB .. id, 'params', 'result', 'error', 'attempts_log', 'ckpt', 'callback')
  redis.call('DEL', EVENTS .. id)
  redis.call('EXPIRE', JOB .. id, DAY)
end

-- Writes the letter to whoever asked to be called when the job ends: it ends once, so one a job.
local function announce(id, state, at)
  local row = redis.call('HMGET', JOB .. id, 'callback', 'tenant', 'created_at', 'traceparent')
  if not row[1] or row[1] == '' then
    return
  end
  local letter = 'evt_' .. (string.gsub(id, '^video_', ''))
  redis.call('HSET', LETTER .. letter, 'job', id, 'url', row[1], 'tenant', row[2], 'status', state,
    'created_at', stamp(at), 'asked_at', row[3], 'tries', 0)
  if row[4] and row[4] ~= '' then
    redis.call('HSET', LETTER .. letter, 'traceparent', row[4])
  end
  redis.call('ZADD', OUTBOX, stamp(at), letter)
end

-- Running totals for operators, never by job: how jobs ended, and histograms of seconds. A field's
-- name is what is counted, its labels and the bound of its bucket, tabs between; see tally.py.
local BOUNDS = { 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600 }

local function observe(name, seconds)
  local bound = 'inf'
  for i = #BOUNDS, 1, -1 do
    if seconds <= BOUNDS[i] then
      bound = BOUNDS[i]
    end
  end
  redis.call('HINCRBY', TALLY, name .. '\t' .. bound, 1)
  redis.call('HINCRBYFLOAT', TALLY, name .. '\tsum', string.format('%.3f', seconds))
end

local function count_end(id, state, payload, at)
  local row = redis.call('HMGET', JOB .. id, 'task_type', 'model', 'created_at', 'started_at', 'claimed_at')
  local kind = row[1] .. '\t' .. row[2]
  local outcome = state == 'failed' and cjson.decode(payload).code or state
  redis.call('HINCRBY', TALLY, 'finished\t' .. kind .. '\t' .. outcome, 1)
  if row[4] and row[4] ~= '' then
    observe('queue_wait\t' .. kind, math.max(0, tonumber(row[4]) - tonumber(row[3])))
    observe('run\t' .. kind, math.max(0, at - tonumber(row[5])))
  end
  local made_by = field(id, 'made_by')
  if made_by and made_by ~= '' then
    redis.call('HINCRBY', TALLY, 'reused\t' .. kind, 1)
  elseif state == 'completed' then
    for stage, seconds in pairs(cjson.decode(payload).stage_seconds or {}) do
      observe('stage\t' .. row[2] .. '\t' .. stage, seconds)
    end
  end
end

-- Something happened that no forecast reckoned with: those made before it hold no longer.
local function upset(id)
  redis.call('HINCRBY', UPSETS, field(id, 'model'), 1)
end

-- What an ended job means for those that wait for its film; see sharing.lua.
local hand_on

-- The one way into a terminal state. `by` is the attempt that ended it, '' for anyone else.
local function finish(id, state, name, payload, by)
  local at = now()
  local ttl = tonumber(field(id, 'result_ttl'))
  redis.call('HSET', JOB .. id, 'state', state, 'stage', 'done', 'eta', '', 'exec', '',
    'ended_by', by, 'completed_at', stamp(at), name, payload)
  redis.call('HDEL', JOB .. id, 'ckpt')
  count_end(id, state, payload, at)
  if state == 'failed' then
    upset(id)
  end
  if state == 'completed' then
    redis.call('HSET', JOB .. id, 'progress', 100, 'expires_at', stamp(at + ttl))
  end
  redis.call('SREM', LIVE, id)
  redis.call('SREM', TENANT .. field(id, 'tenant') .. TENANT_ACTIVE, id)
  emit(id, state)
  announce(id, state, at)
  if field(id, 'deleted') == '1' then
    bury(id)
  else
    -- The row outlives its result by a day, so that the result is known to be gone.
    redis.call('EXPIRE', JOB .. id, ttl + DAY)
    redis.call('EXPIRE', EVENTS .. id, DAY)
  end
  hand_on(id, state)
end

local function fail(id, code, message, by)
  finish(id, 'failed', 'error', cjson.encode({ code = code, message = message }), by)
end

-- Whether the lease of this attempt still runs. A registry score is when it ends.
local function leased(wip, id, exec)
  local score = redis.call('ZSCORE', wip, id .. ':' .. exec)
  return score and tonumber(score) > now()
end

-- Fair share: the tenants of one queue take turns, and next is who was served longest ago. The
-- queue's own list holds every waiting id by arrival; each tenant's LINE holds its ids in order;
-- TURNS holds the tenants that have a line by their turn, SERVED when each had its last one.
-- Never served comes before ever served, and a job given back before all: numbers far below zero.
local NEVER, BACK = 1e15, 2e15
local MAX_RINGS = 64

local function line_of(queue, tenant)
  return LINE .. queue .. ':' .. tenant
end

-- Takes the id out of its queue, wherever it stands.
local function leave(id)
  local queue, tenant = field(id, 'queue'), field(id, 'tenant')
  redis.call('LREM', queue, 0, id)
  local line = line_of(queue, tenant)
  redis.call('LREM', line, 0, id)
  if redis.call('EXISTS', line) == 0 then
    redis.call('ZREM', TURNS .. queue, tenant)
  end
end

-- Puts an id that waits nowhere at the end of its tenant's line, or in `front` of everybody.
local function join(id, front)
  local queue, tenant = field(id, 'queue'), field(id, 'tenant')
  local turns, push = TURNS .. queue, front and 'LPUSH' or 'RPUSH'
  redis.call(push, queue, id)
  redis.call(push, line_of(queue, tenant), id)
  if front then
    redis.call('ZADD', turns, -BACK - redis.call('INCR', CLOCK .. queue), tenant)
  elseif not redis.call('ZSCORE', turns, tenant) then
    local turn = redis.call('ZSCORE', SERVED .. queue, tenant)
    redis.call('ZADD', turns, turn or redis.call('INCR', CLOCK .. queue) - NEVER, tenant)
  end
  -- One ring wakes one idle worker; a lost one costs a second, since workers also look by themselves.
  redis.call('RPUSH', BELL .. queue, 1)
  redis.call('LTRIM', BELL .. queue, -MAX_RINGS, -1)
end

-- The job that an earlier submission made: {replay | conflict, id}, or nil.
local function recall(tenant, fp, idem, retry)
  local function usable(known)
    return redis.call('HEXISTS', JOB .. known, 'params') == 1 and field(known, 'deleted') ~= '1'
  end
  if idem ~= '' then
    local known = redis.call('GET', IDEMPOTENCY .. tenant .. ':' .. idem)
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
    local known = redis.call('GET', FINGERPRINT .. tenant .. ':' .. fp)
    if known and usable(known) then
      return { 'replay', known }
    end
  end
  return nil
end

-- A tenant's own limit, or what holds for everybody.
local function limit_of(tenant, name, default)
  return tonumber(redis.call('HGET', TENANT .. tenant .. TENANT_LIMITS, name) or default)
end

-- Writes the running attempt into the history.
local function log_attempt(id, reason)
  local row = redis.call('HMGET', JOB .. id, 'attempts_log', 'attempt', 'exec', 'worker')
  local log = cjson.decode(row[1])
  log[#log + 1] = {
    number = tonumber(row[2]), exec = row[3], worker = row[4] or '', ended_at = now(), reason = reason,
  }
  redis.call('HSET', JOB .. id, 'attempts_log', cjson.encode(log))
end

-- Takes the job from its attempt: back to `queued`, or ended if cancelled or out of attempts.
-- Pushing the id is the queue's business, or RESCUE's.
local function give_back(id, reason, counts)
  log_attempt(id, reason)
  upset(id)
  local kind = redis.call('HMGET', JOB .. id, 'task_type', 'model')
  local why = counts and 'fault' or 'moved'
  redis.call('HINCRBY', TALLY, 'requeued\t' .. kind[1] .. '\t' .. kind[2] .. '\t' .. why, 1)
  if field(id, 'cancel') == '1' then
    fail(id, 'cancelled', 'The job was cancelled.', '')
    return 'ended'
  end
  if counts then
    if tonumber(field(id, 'retries_left')) < 1 then
      fail(id, 'worker_lost', 'The job was lost by its worker in every attempt: ' .. reason .. '.', '')
      return 'ended'
    end
    redis.call('HINCRBY', JOB .. id, 'retries_left', -1)
  end
  local deadline = now() + tonumber(field(id, 'queue_deadline_s'))
  redis.call('HSET', JOB .. id, 'state', 'queued', 'stage', 'queued', 'step', 0, 'total', 0, 'eta', '',
    'shot', 0, 'shot_done', 0, 'last_exec', field(id, 'exec'), 'exec', '', 'worker', '', 'queue_deadline', stamp(deadline))
  emit(id, 'queued')
  return 'requeue'
end
