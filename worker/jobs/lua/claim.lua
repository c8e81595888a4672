-- Starts an attempt. Called by the worker after it holds a lease for `exec`.
-- ARGV: id, exec, worker, registry of leases
-- Returns {granted | missing | terminal | cancelled | expired | running | lost, attempt}.
local id, exec, worker, wip = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local state = field(id, 'state')

local function attempt()
  return tonumber(field(id, 'attempt') or 0)
end

if not state then
  return { 'missing', 0 }
end
if state == 'completed' or state == 'failed' then
  return { 'terminal', attempt() }
end
local holder = field(id, 'exec')
if state == 'in_progress' then
  if holder == exec then
    return { 'granted', attempt() }
  end
  if leased(wip, id, holder) then
    return { 'running', attempt() }
  end
  -- The holder's lease ran out and nobody has reaped it yet.
  local outcome = give_back(id, 'the lease ran out', true)
  if outcome == 'ended' then
    return { field(id, 'cancel') == '1' and 'cancelled' or 'lost', attempt() }
  end
end
-- An attempt that lost the job never comes back, even if its claim arrives late.
if field(id, 'last_exec') == exec then
  return { 'lost', attempt() }
end
if field(id, 'cancel') == '1' then
  fail(id, 'cancelled', 'The job was cancelled.', '')
  return { 'cancelled', attempt() }
end
local at = now()
if at > tonumber(field(id, 'queue_deadline')) then
  fail(id, 'expired', 'The job waited longer than allowed for a worker.', '')
  return { 'expired', attempt() }
end
leave(id)
redis.call('HSET', JOB .. id, 'state', 'in_progress', 'stage', 'loading', 'exec', exec,
  'worker', worker, 'claimed_at', stamp(at), 'leader', '')
redis.call('HSETNX', JOB .. id, 'started_at', stamp(at))
local number = redis.call('HINCRBY', JOB .. id, 'attempt', 1)
emit(id, 'in_progress')
return { 'granted', number }
