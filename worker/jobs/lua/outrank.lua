-- Whether a running job of the lowest tier shall make room: one of the highest has waited for a
-- worker, and no other job makes room already. It does so a few times at most, then runs to its end.
-- ARGV: id, exec, its tier that makes room, seconds that one of those must have waited for whom it
--       makes room, seconds until another job may make room, times that a job does, their lists
-- Returns yes | no; yes again for the attempt that was told so last.
local id, exec, tier = ARGV[1], ARGV[2], ARGV[3]
local row = redis.call('HMGET', JOB .. id, 'exec', 'tier', 'yielded')
if exec == '' or row[1] ~= exec or row[2] ~= tier then
  return 'no'
end

-- The model of one that has waited in a list for too long; in a paused one nobody would take it.
local function due_in(list)
  local first = not is_paused(list) and redis.call('LINDEX', list, 0)
  local since = first and field(first, 'created_at')
  return since and now() - tonumber(since) >= tonumber(ARGV[4]) and field(first, 'model')
end

local spent = tonumber(row[3] or 0) >= tonumber(ARGV[6])
for i = 7, #ARGV do
  local model = due_in(ARGV[i])
  local holder = model and redis.call('GET', ROOM .. model)
  if holder == exec then
    return 'yes'
  end
  if model and not holder and not spent then
    redis.call('SET', ROOM .. model, exec, 'EX', ARGV[5])
    redis.call('HINCRBY', JOB .. id, 'yielded', 1)
    return 'yes'
  end
end
return 'no'
