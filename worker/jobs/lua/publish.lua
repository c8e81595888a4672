-- Ends the job with the result or error of its running attempt.
-- ARGV: id, exec, completed | failed, result | error, its JSON
-- Returns ok | fenced; ok again for the attempt that ended it.
local id, exec, state = ARGV[1], ARGV[2], ARGV[3]
if exec == '' then
  return 'fenced'
end
if field(id, 'ended_by') == exec then
  return 'ok'
end
if field(id, 'exec') ~= exec then
  return 'fenced'
end
if field(id, 'deleted') == '1' and state == 'completed' then
  -- Its owner deleted it meanwhile: nobody may keep the files.
  fail(id, 'cancelled', 'The job was cancelled.', '')
  return 'fenced'
end
finish(id, state, ARGV[4], ARGV[5], exec)
return 'ok'
