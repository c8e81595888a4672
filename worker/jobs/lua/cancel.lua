-- Cancels, and with `purge` also deletes.
-- ARGV: id, tenant, '1' to purge, queue entry
-- Returns ended | flagged | already_cancelled | terminal | missing.
local id, tenant, purge, entry = ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[4]
local state = field(id, 'state')
if not state or field(id, 'tenant') ~= tenant then
  return 'missing'
end
local deleted = field(id, 'deleted') == '1'
if deleted and not purge then
  return 'missing'
end
if purge and not deleted then
  redis.call('HSET', JOB .. id, 'deleted', '1')
end
if state == 'queued' then
  redis.call('HSET', JOB .. id, 'cancel', '1')
  fail(id, 'cancelled', 'The job was cancelled.', '') -- a follower may take its place in line
  leave(id)
  redis.call('EXPIRE', entry, 3600)
  return 'ended'
end
if state == 'in_progress' then
  if field(id, 'cancel') ~= '1' then
    redis.call('HSET', JOB .. id, 'cancel', '1')
    upset(id)
    emit(id, 'cancel_requested')
  end
  return 'flagged'
end
local message = field(id, 'error')
local cancelled = deleted or (message and cjson.decode(message).code == 'cancelled')
if purge and not deleted then
  bury(id)
end
return cancelled and 'already_cancelled' or 'terminal'
