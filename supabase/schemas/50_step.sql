-- What a worker saves while it holds a run. The functions that it calls compare the fence first, and write nothing when another
-- worker has claimed the run since.

-- Saves a step: changed columns, new events, number and time of the next step; releases the lease. Returns the next seq, or
-- null when the fence has moved on. Keys that p_changes does not have leave their columns as they are.
create function public.advance_run(
    p_run_id uuid, p_fence integer, p_changes jsonb, p_events jsonb, p_check_in_s integer
) returns integer
language plpgsql set search_path = '' as $$
declare
    v_run public.runs;
    v_new public.runs;
    v_unknown text;
begin
    select key into v_unknown from jsonb_object_keys(p_changes) as k (key)
    where key not in (
        'phase', 'attempt', 'sandbox_id', 'agent_session_id', 'base_commit', 'output_offset', 'reader_state', 'usage',
        'checkpoint', 'exit_code', 'error_code', 'error')
    limit 1;
    if found then
        raise sqlstate 'PT400' using message = 'unknown_column', detail = v_unknown;
    end if;
    select * into v_run from public.runs where id = p_run_id for update;
    if not found or v_run.fence <> p_fence or v_run.status not in ('queued', 'running') then
        return null;
    end if;
    v_new := jsonb_populate_record(v_run, p_changes);
    update public.runs set
        phase = v_new.phase, attempt = v_new.attempt, sandbox_id = v_new.sandbox_id,
        agent_session_id = v_new.agent_session_id, base_commit = v_new.base_commit,
        output_offset = v_new.output_offset, reader_state = v_new.reader_state, usage = v_new.usage,
        checkpoint = v_new.checkpoint,
        exit_code = v_new.exit_code, error_code = v_new.error_code, error = v_new.error,
        seq = seq + 1, lease_until = null, next_check_at = now() + p_check_in_s * interval '1 second'
    where id = p_run_id returning * into v_new;
    if v_new.sandbox_id is distinct from v_run.sandbox_id then
        update public.tasks set container_id = v_new.sandbox_id where id = v_run.task_id;
    end if;
    perform public.append_events(v_run.task_id, p_run_id, p_events);
    return v_new.seq;
end $$;

-- Writes the changes of a run into its task and its files. Keys of p_result: commit_hash, git_diff, git_patch, changed_files,
-- execution_metadata; absent keys leave the row as it is. The files replace those that the run saved before.
create function public.store_result(p_run public.runs, p_result jsonb, p_files jsonb) returns void
language plpgsql set search_path = '' as $$
begin
    update public.tasks set
        commit_hash = case when p_result ? 'commit_hash' then p_result ->> 'commit_hash' else commit_hash end,
        git_diff = case when p_result ? 'git_diff' then p_result ->> 'git_diff' else git_diff end,
        git_patch = case when p_result ? 'git_patch' then p_result ->> 'git_patch' else git_patch end,
        changed_files = coalesce(p_result -> 'changed_files', changed_files),
        execution_metadata = execution_metadata || coalesce(p_result -> 'execution_metadata', '{}'::jsonb)
    where id = p_run.task_id;
    delete from public.task_files where run_id = p_run.id;
    insert into public.task_files (
        run_id, task_id, path, previous_path, status, mode, before, after, encoding, size, truncated)
    select p_run.id, p_run.task_id, f.path, f.previous_path, f.status, f.mode, f.before, f.after,
        coalesce(f.encoding, 'utf-8'), coalesce(f.size, 0), coalesce(f.truncated, false)
    from jsonb_populate_recordset(null::public.task_files, coalesce(p_files, '[]'::jsonb)) as f
    on conflict (run_id, path) do nothing;
end $$;

-- Saves what the agent has changed so far, in the same places as the result of a run: a run that ends without a result
-- leaves its last checkpoint. False when the fence has moved on.
create function public.save_checkpoint(p_run_id uuid, p_fence integer, p_result jsonb, p_files jsonb) returns boolean
language plpgsql set search_path = '' as $$
declare
    v_run public.runs;
begin
    select * into v_run from public.runs where id = p_run_id for update;
    if not found or v_run.fence <> p_fence or v_run.status <> 'running' then
        return false;
    end if;
    perform public.store_result(v_run, p_result, p_files);
    return true;
end $$;

-- Stores parts of contents, `[{"id", "part", "parts", "data" (base64)}]`; existing parts are left as they are. False when
-- the fence has moved on.
create function public.store_contents(p_run_id uuid, p_fence integer, p_parts jsonb) returns boolean
language plpgsql set search_path = '' as $$
begin
    perform 1 from public.runs r
    where r.id = p_run_id and r.fence = p_fence and r.status in ('queued', 'running') for update;
    if not found then
        return false;
    end if;
    insert into public.task_contents (run_id, id, part, parts, data)
    select p_run_id, p.id, p.part, p.parts, decode(p.data, 'base64')
    from jsonb_to_recordset(p_parts) as p (id text, part integer, parts integer, data text)
    on conflict (run_id, id, part) do nothing;
    return true;
end $$;

-- The ids of a run's complete contents, as an array.
create function public.stored_contents(p_run_id uuid) returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(whole.id), '[]'::jsonb)
    from (
        select c.id from public.task_contents c where c.run_id = p_run_id
        group by c.id having count(*) = max(c.parts)
    ) whole
$$;

revoke all on function
    public.advance_run, public.store_result, public.save_checkpoint, public.store_contents, public.stored_contents
    from public, anon, authenticated;
grant execute on function
    public.advance_run, public.store_result, public.save_checkpoint, public.store_contents, public.stored_contents
    to service_role;
